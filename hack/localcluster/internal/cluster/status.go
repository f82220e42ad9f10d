package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/shopset/shopset/hack/localcluster/internal/keeper"
	"github.com/shopset/shopset/hack/localcluster/internal/kubeapi"
	"github.com/shopset/shopset/hack/localcluster/internal/node"
	"github.com/shopset/shopset/hack/localcluster/internal/proc"
)

// Status writes a table of the components, and returns an error when not all is well.
func (c *Cluster) Status(ctx context.Context, out io.Writer) error {
	record, err := c.running()
	if err != nil {
		return err
	}
	statuses, err := node.ReadStatus(c.layout)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "COMPONENT\tPID\tSTATE\tRESTARTS\tMEMORY\tSINCE\tLAST EXIT")
	total := row(table, node.Status{Name: "keeper", State: node.Running, Started: record.Started}, record.Keeper.PID)
	total += row(table, node.Status{Name: "node", State: node.Running, Started: record.Started}, record.Node.PID)
	inside := proc.Inside(record.Node.PID)
	for _, status := range statuses {
		total += row(table, status, inside[status.PID])
	}
	fmt.Fprintf(table, "total\t\t\t\t%d MiB\t\t\n", total>>20)
	if err := table.Flush(); err != nil {
		return err
	}
	return c.summary(ctx, out, record)
}

func row(table io.Writer, status node.Status, pid int) int64 {
	memory, since, shown := int64(0), "", "-"
	if status.State == node.Running {
		memory = proc.RSS(pid)
		since = time.Since(status.Started).Round(time.Second).String()
		shown = fmt.Sprint(pid)
	}
	fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%d MiB\t%s\t%s\n", status.Name, shown, status.State, status.Restarts, memory>>20, since, status.LastExit)
	return memory
}

func (c *Cluster) summary(ctx context.Context, out io.Writer, record keeper.Record) error {
	plan := record.Spec.Plan
	fmt.Fprintf(out, "\nnode %s, host %s, Pods %s, services %s, DNS %s\n", plan.Node, plan.Host, plan.Pods, plan.Services, plan.DNS())
	fmt.Fprintf(out, "API https://127.0.0.1:%d", record.Spec.API.Host)
	for _, f := range record.Publish {
		fmt.Fprintf(out, ", 127.0.0.1:%d to node port %d", f.Host, f.Node)
	}
	fmt.Fprintln(out)
	client, err := kubeapi.New(record.Spec)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if err := client.Get(ctx, "/api/v1/namespaces/default/serviceaccounts/default", nil); err != nil {
		return err
	}
	if err := resolves(ctx, record.Spec); err != nil {
		return fmt.Errorf("DNS does not answer: %w", err)
	}
	if err := c.healthy(ctx, record); err != nil {
		return err
	}
	fmt.Fprintln(out, "the node is ready, DNS answers")
	return nil
}

// Kubeconfig returns the path of the kubeconfig.
func (c *Cluster) Kubeconfig() (string, error) {
	if _, err := c.running(); err != nil {
		return "", err
	}
	_, err := os.Stat(c.layout.Kubeconfig())
	if errors.Is(err, os.ErrNotExist) {
		err = ErrDown
	}
	return c.layout.Kubeconfig(), err
}
