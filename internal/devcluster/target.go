package devcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/shopset/shopset/internal/operator"
)

// Target is the cluster to work on.
type Target struct {
	// Root is the repository, State the folder of everything that is built or running.
	Root, State string
	// Local says that it is the cluster of hack/localcluster.
	Local bool
	// Config and Client are set by Connect.
	Config *rest.Config
	Client client.Client
}

// Find says which cluster is meant, without touching it.
func Find() (*Target, error) {
	root, err := repositoryRoot()
	if err != nil {
		return nil, err
	}
	t := &Target{Root: root, State: os.Getenv("SHOPSET_STATE")}
	if t.State == "" {
		t.State = filepath.Join(root, ".state")
	}
	// People export the local cluster's own kubeconfig as `make up` suggests; that is still the local one.
	kubeconfig := os.Getenv("KUBECONFIG")
	t.Local = os.Getenv("CONTEXT") == "" && (kubeconfig == "" || sameFile(kubeconfig, t.localKubeconfig()))
	return t, nil
}

// sameFile compares what two paths lead to: a checkout may be reached by several.
func sameFile(a, b string) bool {
	if a == b {
		return true
	}
	first, err1 := os.Stat(a)
	second, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(first, second)
}

// Kubeconfig is the path for people to export; empty for the default of a cluster of their own.
func (t *Target) Kubeconfig() string {
	if t.Local {
		return t.localKubeconfig()
	}
	return os.Getenv("KUBECONFIG")
}

func (t *Target) localKubeconfig() string { return filepath.Join(t.State, "kubeconfig") }

// Tool is the path of a program of the repository that `make` built.
func (t *Target) Tool(name string) string { return filepath.Join(t.State, "tools", name) }

// Connect reads the credentials.
func (t *Target) Connect() error {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	if t.Local {
		rules.ExplicitPath = t.Kubeconfig()
		if _, err := os.Stat(rules.ExplicitPath); err != nil {
			return errors.New("no local cluster is running; start one with `make up`")
		}
	}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules,
		&clientcmd.ConfigOverrides{CurrentContext: os.Getenv("CONTEXT")}).ClientConfig()
	if clientcmd.IsEmptyConfig(err) {
		return fmt.Errorf("KUBECONFIG=%q and CONTEXT=%q lead to no cluster; mend them, or unset both to use the local cluster",
			os.Getenv("KUBECONFIG"), os.Getenv("CONTEXT"))
	}
	if err != nil {
		return fmt.Errorf("credentials of the cluster: %w", err)
	}
	config.QPS = -1
	ctrllog.SetLogger(logr.Discard()) // Errors say all there is to say; a client has nothing to log.
	scheme, err := operator.Scheme()
	if err != nil {
		return err
	}
	if err := apiextensionsv1.AddToScheme(scheme); err != nil {
		return err
	}
	t.Config = config
	t.Client, err = client.New(config, client.Options{Scheme: scheme})
	return err
}

// Run runs a program in the repository and shows what it says.
func (t *Target) Run(ctx context.Context, program string, args ...string) error {
	command := Command(ctx, program, args...)
	command.Dir = t.Root
	command.Stdout, command.Stderr = os.Stderr, os.Stderr
	if err := command.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", filepath.Base(program), strings.Join(args, " "), err)
	}
	return nil
}

// Command is a program that is asked to end when the context does, and has time to clean up.
func Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, program, args...)
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
	command.WaitDelay = 30 * time.Second
	return command
}

func repositoryRoot() (string, error) {
	at, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := at; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("%s is not in the ShopSet repository", at)
}
