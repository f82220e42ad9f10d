package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shopset/shopset/internal/devcluster"
)

func script(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// TestABareMachine has none of the programs; all are asked for at once.
func TestABareMachine(t *testing.T) {
	root := t.TempDir()
	asked := filepath.Join(root, "asked")
	script(t, filepath.Join(root, "hack/ensure-packages"), "echo \"$@\" >>"+asked)
	t.Setenv("PATH", t.TempDir())
	for _, local := range []bool{true, false} {
		if err := install(t.Context(), &devcluster.Target{Root: root, Local: local}); err != nil {
			t.Fatal(err)
		}
	}
	content, _ := os.ReadFile(asked)
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "mmdebstrap ") || !strings.HasSuffix(lines[0], "nftables runc") ||
		!strings.HasPrefix(lines[1], "mmdebstrap") || strings.Contains(lines[1], "nftables") {
		t.Fatalf("asked for %q", lines)
	}
}

// TestAKilledInstallation looks at what the script leaves, with a /usr/sbin and a /run of its own.
func TestAKilledInstallation(t *testing.T) {
	if err := exec.Command("unshare", "--mount", "true").Run(); err != nil || os.Getuid() != 0 {
		t.Skip("needs root for a mount namespace")
	}
	dir := t.TempDir()
	sbin, bin := filepath.Join(dir, "sbin"), filepath.Join(dir, "bin")
	policy := filepath.Join(sbin, "policy-rc.d")
	if err := os.Mkdir(sbin, 0o755); err != nil {
		t.Fatal(err)
	}
	repository, err := filepath.Abs("../ensure-packages")
	if err != nil {
		t.Fatal(err)
	}
	calls := filepath.Join(dir, "calls")
	script(t, filepath.Join(bin, "dpkg-query"), `case "$*" in *there*) echo install ok installed;; *) exit 1;; esac`)
	ensure := func(aptGet, pkg string) error {
		script(t, filepath.Join(bin, "apt-get"), aptGet)
		command := exec.Command("unshare", "--mount", "sh", "-c", `mount --bind "$1" /usr/sbin && mount -t tmpfs none /run && PATH="$2:$PATH" exec "$3" "$4"`,
			"sh", sbin, bin, repository, pkg)
		output, err := command.CombinedOutput()
		t.Logf("%s: %v %s", pkg, err, output)
		return err
	}
	exists := func() bool { _, err := os.Stat(policy); return err == nil }

	if err := ensure("kill -9 $PPID", "absent"); err == nil || !exists() {
		t.Fatalf("the installation was not killed in the middle: %v", err)
	}
	if err := ensure("exit 1", "there"); err != nil || exists() {
		t.Fatalf("what the killed one left was not removed: %v", err)
	}
	if err := ensure("test -x /usr/sbin/policy-rc.d && echo \"$@\" >>"+calls, "absent"); err != nil || exists() {
		t.Fatalf("an installation: %v", err)
	}
	if content, _ := os.ReadFile(calls); !strings.Contains(string(content), "DPkg::Lock::Timeout=300") {
		t.Errorf("apt-get was called with %s", content)
	}
	script(t, policy, "exit 101 # the machine's own")
	if err := ensure("exit 0", "absent"); err != nil || !exists() {
		t.Fatalf("the machine's own policy: %v", err)
	}
}

// TestCleanRemovesOnlyWhatMakeMade has a state folder that is the home of something else.
func TestCleanRemovesOnlyWhatMakeMade(t *testing.T) {
	state := filepath.Join(t.TempDir(), "a home")
	precious := filepath.Join(state, "precious")
	clean := func() error {
		command := exec.Command("make", "clean", "SHOPSET_STATE="+state)
		command.Dir = "../.."
		output, err := command.CombinedOutput()
		t.Logf("%s", output)
		return err
	}
	script(t, precious, "")
	if err := clean(); err == nil {
		t.Error("a folder that make did not make was removed")
	}
	if _, err := os.Stat(precious); err != nil {
		t.Fatal(err)
	}
	script(t, filepath.Join(state, ".made-by-shopset"), "")
	if err := clean(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(state); err == nil {
		t.Error("make's own folder is still there")
	}
}
