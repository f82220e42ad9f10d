// Package testservers gives tests a real Redis and a real PostgreSQL, those of Debian.
//
// It promises:
//
//   - Redis(t) and Postgres(t) return when the server answers, and leave nothing behind when the
//     test ends: no process, no folder.
//   - That also holds when the test binary is killed: every server has a parent death signal, and
//     a watcher (a shell that waits for the end of a pipe) removes the folder.
//   - Missing packages are installed by hack/ensure-packages.
//
// How: Postgres(t) is one server for the whole test binary with one database for each test; initdb
// runs once. NewPostgres(t) and NewRedis(t) are servers of their own for tests that take them down
// and up again; they keep their data and their port. The parent death signal belongs to the thread
// that starts the process, not to the process, so each server is started and awaited by a
// goroutine that is locked to its thread until the server has ended. PostgreSQL refuses to run as
// root; then it runs as the user postgres, or nobody.
//
// Limits: Linux only. Servers listen on 127.0.0.1, on ports from 15000 to 29999, which are outside
// the range of outgoing connections, so that nobody takes the port of a server that is down.
// fsync is off, so a crash of the machine loses data; a crash of the server does not.
package testservers
