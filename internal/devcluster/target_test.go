package devcluster

import (
	"bufio"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTheLocalClusterByAnyPath has a checkout that is reached through a link, and by a relative path.
func TestTheLocalClusterByAnyPath(t *testing.T) {
	folder := t.TempDir()
	state, link := filepath.Join(folder, "state"), filepath.Join(folder, "link")
	if err := errors.Join(os.Mkdir(state, 0o755), os.Symlink(state, link),
		os.WriteFile(filepath.Join(state, "kubeconfig"), nil, 0o600), os.WriteFile(filepath.Join(folder, "other"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	relative, err := filepath.Rel(here, filepath.Join(state, "kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SHOPSET_STATE", state)
	for _, test := range []struct {
		kubeconfig, context string
		local               bool
	}{
		{"", "", true},
		{filepath.Join(state, "kubeconfig"), "", true},
		{filepath.Join(link, "kubeconfig"), "", true},
		{relative, "", true},
		{filepath.Join(folder, "other"), "", false},
		{filepath.Join(folder, "nowhere"), "", false},
		{"", "mine", false},
		{filepath.Join(state, "kubeconfig"), "mine", false},
	} {
		t.Setenv("KUBECONFIG", test.kubeconfig)
		t.Setenv("CONTEXT", test.context)
		target, err := Find()
		if err != nil {
			t.Fatal(err)
		}
		if target.Local != test.local {
			t.Errorf("KUBECONFIG=%s CONTEXT=%s: local is %t", test.kubeconfig, test.context, target.Local)
		}
	}
}

// TestAnInterruptedProgramCleansUp ends a program that has something to remove.
func TestAnInterruptedProgramCleansUp(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	command := Command(ctx, "sh", "-c", `trap 'echo cleaned up; exit 0' TERM; echo started; while :; do sleep 0.01; done`)
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(output)
	if line, err := reader.ReadString('\n'); err != nil || line != "started\n" {
		t.Fatal(line, err)
	}
	cancel()
	line, err := reader.ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "cleaned up" {
		t.Errorf("got %q %v", line, err)
	}
	_ = command.Wait()
}
