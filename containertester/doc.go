// Package tester tests how a container image behaves, under go test, with very little code: start mocks,
// start the image with any environment, send requests, assert.
//
//	app := tester.StartMockAP(t, tester.MockApResponseBody("app server"))
//	defer app.Close(t)
//	nginx := tester.StartContainer(t, tester.ContainerConfig{
//		Image:       "nginx-proxy:test",
//		Environment: map[string]string{"APP_SERVER": app.Host()},
//	})
//	defer nginx.Close(t)
//	nginx.AssertHttpGet(t, tester.ExpectedBody("app server"))
//
// It promises:
//
//   - No sleep: a container is ready when its port, page or log line says so, and one that ends early is
//     noticed at once and reported with the end of its log.
//   - A failed assertion prints the request, the answer, what the mocks received, how the environment
//     differs from the image's own, and the end of the log.
//   - Nothing stays: containers end with their test. Those of a test binary that was killed are removed by
//     the next one: each bears the process that made it in a label. No helper container is needed.
//   - Tests run in parallel: addresses and ports are chosen anew for each container and mock.
//
// Beyond single requests: RunMatrix tries an image with every pair of values of its variables,
// AssertEnvironmentUsed and AssertNoLeftovers find misspelt variables and templates that were not rendered,
// and AssertSame sends the same requests to two images, or an image and a machine, and tells where they
// differ.
//
// Mocks live in the process of the test, so that they can be functions of it. How containers reach them is
// found out once:
//
//   - Docker or Podman on this Linux machine: at the address of the engine's bridge.
//   - The test itself is in a container, as in CI, with the engine's socket: at that container's address, in
//     its network, which the containers under test join.
//   - Docker Desktop and its like: at host.docker.internal.
//   - An engine on another machine (DOCKER_HOST=tcp://…, with DOCKER_TLS_VERIFY and DOCKER_CERT_PATH), in a
//     virtual machine or without root: a container, the relay, has the mocks' ports and leads what comes there
//     to this process. It is built from a file of this package by the Go that runs the tests, and ends with them.
//
// The engine is Docker's or Podman's, by its API (1.41, or the oldest that it has) at DOCKER_HOST or at its
// usual socket. Images are never pulled: what is tested is what was built. Reports hide the values of
// variables that are called like secrets.
//
// Limits: TCP only; one address per engine in a process; DOCKER_HOST=ssh://… is not spoken.
package tester
