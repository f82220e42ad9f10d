package tester_test

import (
	"bufio"
	"os"
	"os/exec"
	"runtime"
	"testing"

	tester "github.com/shopset/shopset/containertester"
)

func goexit() { runtime.Goexit() }

// leave starts a container and waits to be killed.
func leave() {
	c := tester.StartContainer(&recording{}, tester.ContainerConfig{Image: image, Environment: map[string]string{"APP_SERVER": "127.0.0.1:1"}})
	if _, err := os.Stdout.WriteString(c.Address(8080) + "\n"); err != nil {
		os.Exit(1)
	}
	select {}
}

// TestKilledTestsAreSweptUp: the container of a test binary that was killed is removed by the next one.
func TestKilledTestsAreSweptUp(t *testing.T) {
	t.Parallel()
	killed := func() {
		command := exec.CommandContext(t.Context(), os.Args[0])
		command.Env = append(os.Environ(), "TESTER_LEAVE=1")
		stdout, err := command.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		if err := command.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = command.Wait() // It was killed.
	}
	killed()
	killed() // At its start it removes what the first has left.
	if left := tester.LeftBehind(t); left != 1 {
		t.Fatalf("%d containers of killed tests are left, want that of the last alone", left)
	}
}
