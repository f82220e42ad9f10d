package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// runKubectl measures `kubectl apply` of the same children. kubectl cannot know the UID of an owner
// that it makes itself, so the children have none.
func runKubectl(ctx context.Context, b *bench, n int, flags ...string) (m measurement, err error) {
	cp, err := startControlPlane(ctx, b)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, cp.stop()) }()
	if err := warmUp(ctx, b, cp); err != nil {
		return m, err
	}
	template, err := sample(ctx, b, cp)
	if err != nil {
		return m, err
	}
	var manifest bytes.Buffer
	for i := range n {
		ss := named(template, namespace, i)
		shopSet, err := encode(ss)
		if err != nil {
			return m, err
		}
		objects := []rendered{shopSet}
		children, err := childrenOf(ss)
		if err != nil {
			return m, err
		}
		for _, child := range children {
			child.SetOwnerReferences(nil)
			body, err := encode(child)
			if err != nil {
				return m, err
			}
			objects = append(objects, body)
		}
		for _, object := range objects {
			manifest.WriteString("---\n")
			manifest.Write(object.body)
			manifest.WriteByte('\n')
		}
	}
	file := filepath.Join(cp.folder, "manifest.yaml")
	if err := os.WriteFile(file, manifest.Bytes(), 0o600); err != nil {
		return m, err
	}
	server, err := cp.cpu()
	if err != nil {
		return m, err
	}
	arguments := append([]string{"apply", "-f", file, "--kubeconfig", cp.kubeconfig, "--cache-dir", filepath.Join(cp.folder, "cache")}, flags...)
	command := exec.CommandContext(ctx, filepath.Join(b.assets, "kubectl"), arguments...)
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var output bytes.Buffer
	command.Stderr = &output
	began := time.Now()
	if err := command.Run(); err != nil {
		return m, fmt.Errorf("kubectl apply: %w: %.500s", err, output.String())
	}
	m.wall = time.Since(began)
	return m, m.finish(ctx, cp, n, server, func() (time.Duration, error) {
		return command.ProcessState.UserTime() + command.ProcessState.SystemTime(), nil
	})
}
