package tester_test

import (
	"bufio"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	tester "github.com/shopset/shopset/containertester"
)

func goexit() { runtime.Goexit() }

// leave starts a container and waits to be killed.
func leave() {
	tester.StartNetwork(&recording{})
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
	if left := tester.LeftBehind(t); left != 2 {
		t.Fatalf("%d things of killed tests are left, want the container and the network of the last alone", left)
	}
}

// TestWhatIsLeft: only what belongs to a dead process, or to nobody known for a day.
func TestWhatIsLeft(t *testing.T) {
	own := strings.Fields(tester.Owner())
	with := func(at int, value string) string {
		fields := slices.Clone(own)
		fields[at] = value
		return strings.Join(fields, " ")
	}
	now, old := time.Now(), time.Now().Add(-25*time.Hour)
	for name, test := range map[string]struct {
		label string
		made  time.Time
		want  bool
	}{
		"our own":                      {tester.Owner(), old, false},
		"a dead process":               {with(2, "4194305"), now, true},
		"another process of that id":   {with(3, "1"), now, true},
		"another machine, young":       {with(0, "elsewhere"), now, false},
		"another machine, old":         {with(0, "elsewhere"), old, true},
		"another namespace, old":       {with(1, "pid:[1]"), old, true},
		"a label of another kind, new": {"x", now, false},
	} {
		if got := tester.IsLeft(test.label, test.made); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// TestEngineVersions: an old engine gets its own version, one that gave up ours the oldest that it has.
func TestEngineVersions(t *testing.T) {
	for _, test := range []struct{ most, least, want string }{
		{"1.41", "1.12", "1.41"}, {"1.50", "1.24", "1.41"}, {"1.54", "1.44", "1.44"}, {"1.40", "1.12", "1.40"}, {"", "", "1.41"},
	} {
		if got := tester.ChooseVersion(test.most, test.least); got != test.want {
			t.Errorf("%s to %s: %s, want %s", test.least, test.most, got, test.want)
		}
	}
}
