// Package node is the inside of the cluster's node: process 1 of its own PID, mount, network, UTS
// and IPC namespaces. It prepares the namespaces, starts the components, starts again what dies,
// and reaps what nobody waits for.
//
// Everything hangs on this one process. When it is killed, the kernel kills every process of its
// PID namespace, Pods included, and with the last of them go all mounts, interfaces, routes and
// rules. There is nothing to clean up that could be forgotten, except control groups.
package node

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/shopset/shopset/hack/localcluster/internal/component"
	"github.com/shopset/shopset/hack/localcluster/internal/subnet"
)

// CloneFlags are the namespaces that the node has for itself.
const CloneFlags = unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC

// GoFile is the descriptor from which the node reads its Spec. It arrives when the network is
// there; end of file before that means that the host's side has given up.
const GoFile = 3

// Main is the node's process. It returns only on an error.
func Main() error {
	runtime.LockOSThread() // mounts and names are made by one thread, in order
	if os.Getpid() != 1 {
		return fmt.Errorf("'node' is started by 'up', in namespaces of its own, and by nothing else")
	}
	var spec component.Spec
	input := os.NewFile(GoFile, "spec")
	if err := json.NewDecoder(input).Decode(&spec); err != nil {
		return fmt.Errorf("no instructions from the host's side: %w", err)
	}
	_ = input.Close()
	if err := mounts(spec.Layout); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(component.NodeName)); err != nil {
		return err
	}
	if err := subnet.ConfigureNode(spec.Plan); err != nil {
		return err
	}
	runtime.UnlockOSThread()
	return newSupervisor(spec).run()
}
