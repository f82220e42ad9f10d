package kubectl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Exit codes.
const (
	// ExitWell is for all that was done, and for what is well.
	ExitWell = 0
	// ExitNotWell is for what is not well, did not come in time, or differs.
	ExitNotWell = 1
	// ExitError is for what could not be asked or done.
	ExitError = 2
)

// errNotWell ends a command whose output has said all.
var errNotWell = errors.New("not well")

// notInTime ends a command that has waited in vain.
type notInTime struct{ error }

// Streams are where the program reads and writes.
type Streams struct {
	In          io.Reader
	Out, ErrOut io.Writer
}

// tool is one run of the program.
type tool struct {
	Streams
	now func() time.Time
	// rules and overrides are what kubeconfig and flags say.
	rules     *clientcmd.ClientConfigLoadingRules
	overrides clientcmd.ConfigOverrides

	client    client.WithWatch
	namespace string
}

// Run runs one command line, without the name of the program, and gives the exit code.
func Run(ctx context.Context, streams Streams, args []string) int {
	t := &tool{Streams: streams, now: time.Now, rules: clientcmd.NewDefaultClientConfigLoadingRules()}
	root := t.command()
	root.SetArgs(args)
	root.SetIn(streams.In)
	root.SetOut(streams.Out)
	root.SetErr(streams.ErrOut)
	err := root.ExecuteContext(ctx)
	var late notInTime
	switch {
	case err == nil:
		return ExitWell
	case errors.Is(err, errNotWell):
		return ExitNotWell
	case errors.As(err, &late):
		fmt.Fprintln(streams.ErrOut, "kubectl shopset:", err)
		return ExitNotWell
	default:
		fmt.Fprintln(streams.ErrOut, "kubectl shopset:", sentence(err))
		return ExitError
	}
}

func (t *tool) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "kubectl-shopset",
		Short: "Ask and tell fleets of ShopSets",
		Long: `Ask and tell fleets of ShopSets: where something broke, which cell serves a host and why,
and how to take a cell or a host elsewhere.

Exit codes: 0 well, or done; 1 not well, not in time, or there are differences; 2 an error.`,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl shopset"},
		SilenceErrors: true, SilenceUsage: true,
		Args: func(c *cobra.Command, args []string) error {
			if err := cobra.NoArgs(c, args); err != nil {
				return usage(c, err)
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	flags := root.PersistentFlags()
	flags.StringVar(&t.rules.ExplicitPath, "kubeconfig", "", "path to the kubeconfig file")
	clientcmd.BindOverrideFlags(&t.overrides, flags, clientcmd.RecommendedConfigOverrideFlags(""))
	root.SetFlagErrorFunc(usage)
	for _, sub := range []*cobra.Command{
		t.statusCommand(), t.treeCommand(), t.explainCommand(), t.routesCommand(), t.diffCommand(),
		t.drainCommand(), t.undrainCommand(), t.evacuateCommand(), t.moveCommand(),
	} {
		check := sub.Args
		sub.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usage(c, err)
			}
			return nil
		}
		root.AddCommand(sub)
	}
	return root
}

// usage is an error in the command line itself.
func usage(c *cobra.Command, err error) error {
	return fmt.Errorf("%w; see %s --help", err, c.CommandPath())
}

// complete offers the names of objects to the shell.
func (t *tool) complete(list func() client.ObjectList) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(c.Context(), 3*time.Second)
		defer cancel()
		if len(args) > 0 || t.connect() != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names, err := t.names(ctx, list())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var fit []string
		for _, name := range names {
			if strings.HasPrefix(name, prefix) {
				fit = append(fit, name)
			}
		}
		return fit, cobra.ShellCompDirectiveNoFileComp
	}
}
