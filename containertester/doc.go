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
// Mocks live in the process of the test. Containers reach them at the address of the engine's bridge on
// Linux, at host.docker.internal where the engine is in a virtual machine (Docker Desktop), and at the own
// address when the test itself runs in a container on that bridge.
//
// The engine is Docker's or Podman's, by its API (1.41) at DOCKER_HOST or at its usual socket. Images are
// never pulled: what is tested is what was built.
//
// Limits: an engine on another machine (DOCKER_HOST=tcp://…) can be used for containers, but they cannot
// reach the mocks.
package tester
