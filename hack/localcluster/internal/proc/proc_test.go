package proc

import (
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestParseStat(t *testing.T) {
	const tail = " 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9"
	for stat, want := range map[string]uint64{
		"17 (etcd) S" + tail:         4711,
		"17 (a) (b) S) R" + tail:     4711,
		"17 (sd-pam) with) S" + tail: 4711,
		"17 (etcd) Z" + tail:         0, // a zombie has ended
		"17 (short) S 1 2":           0,
		"nothing like it":            0,
	} {
		have, err := parseStat(stat)
		if have != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %d, %v; want %d", stat, have, err, want)
		}
	}
}

func TestIdentity(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := Of(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	for name, other := range map[string]ID{
		"a later process of the same number": {PID: id.PID, Start: id.Start + 1, Boot: id.Boot},
		"the same number before a reboot":    {PID: id.PID, Start: id.Start, Boot: "another"},
		"none":                               {},
	} {
		if other.Alive() {
			t.Errorf("%s is taken for this one", name)
		}
		if err := other.Signal(unix.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("signal to %s: %v, want it not to be sent", name, err)
		}
	}
	if !id.Alive() {
		t.Fatal("the wrong process was killed")
	}
	if err := id.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if !id.WaitGone(5 * time.Second) { // a zombie until Wait
		t.Error("killed, but not gone")
	}
	_ = cmd.Wait()
	if id.Alive() {
		t.Error("alive after its end")
	}
}

func TestInsideSeesThisNamespace(t *testing.T) {
	inside := Inside(os.Getpid())
	found := false
	for _, pid := range inside {
		found = found || pid == os.Getpid()
	}
	if !found {
		t.Errorf("this process is not in its own namespace: %v", inside)
	}
	if RSS(os.Getpid()) < 1<<20 {
		t.Errorf("resident memory %d bytes", RSS(os.Getpid()))
	}
}
