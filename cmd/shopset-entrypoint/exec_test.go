package main

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestBecomesTheProgram: the program has the entrypoint's process, gets its signals and environment, and its
// exit code is the process'.
func TestBecomesTheProgram(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("a.tmpl", []byte("{{ .A }}"), 0o600); err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), os.Args[0],
		"--render", "a.tmpl:"+filepath.Join("out", "a"), "--check", "test -s out/a", "--",
		"sh", "-c", `trap "exit 7" TERM; echo $$ $(cat out/a) $B "$0"; while :; do sleep 0.05; done`, "an argument")
	command.Env = append(os.Environ(), "SHOPSET_TEST_MAIN=1", "A=rendered", "B=kept")
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if want := strconv.Itoa(command.Process.Pid) + " rendered kept an argument\n"; line != want || err != nil {
		t.Errorf("got %q %v, want %q", line, err, want)
	}
	if err := command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := command.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Fatalf("ended with %v, want exit code 7", err)
	}
}

// TestExitCodes are those of shells.
func TestExitCodes(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("plain", []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("broken", []byte("#!/no/such/interpreter\n"), 0o700); err != nil { //nolint:gosec // A program.
		t.Fatal(err)
	}
	for program, want := range map[string]int{"./none": 127, "./plain": 126, "./broken": 126} {
		var stderr strings.Builder
		if got := run([]string{"--", program}, nil, &stderr, &stderr); got != want || !strings.Contains(stderr.String(), program) {
			t.Errorf("%s: exit code %d, want %d: %s", program, got, want, stderr.String())
		}
	}
}

// TestMain lets the test binary be the program itself.
func TestMain(m *testing.M) {
	if os.Getenv("SHOPSET_TEST_MAIN") != "" {
		main()
	}
	os.Exit(m.Run())
}
