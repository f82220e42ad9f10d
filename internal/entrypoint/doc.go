// Package entrypoint renders an image's config files from its environment and then becomes the image's
// program.
//
// Run promises:
//
//   - All problems are told at once: of the schema, of variables, of every template, and a program that
//     is not there. Then nothing is written and nothing is started.
//   - A file is replaced whole or not at all; its mode is that of its template, and its owner too where
//     that is allowed.
//   - The program gets the process: it is PID 1 if the entrypoint was, with the same environment, so
//     signals and exit codes are its own.
//   - Nothing is read outside of --in but the files that NAME_FILE variables name, and nothing written outside of
//     --out, whatever symbolic links say. Links to folders inside of --in are followed.
//   - Values of secrets are in no output but the rendered files.
//
// Algorithm:
//
//	environment → schema → values
//	gather   --in: NAME.tmpl is a Go template, NAME.template and NAME.envsubst one with ${…}, _NAME.tmpl a
//	         partial, anything else is copied; --render IN:OUT names single files
//	render   all of them, in memory
//	write    each beside its place, then rename all
//	check    the image's own command, such as nginx -t
//	exec     the program
//
// Limits: 10,000 files; a template and what it makes have 512 KiB at most, a file that is copied 64 MiB, all of
// them 256 MiB;
// for the rest see packages render and envschema. The check has 30 seconds.
package entrypoint
