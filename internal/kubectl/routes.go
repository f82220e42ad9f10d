package kubectl

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/routetable"
)

type routesOptions struct{ output, hosts, keys, table string }

func (t *tool) routesCommand() *cobra.Command {
	o := &routesOptions{}
	formats := append([]string{"table", "json"}, routetable.ExportFormats...)
	c := &cobra.Command{
		Use:   "routes [FLEET]",
		Short: "Show the published routing table, or make files of it for other front ends",
		Long: `Show the routing table of a fleet as it is published, after a check of its signature.
haproxy, nginx and dns write where the hosts of a file are; docs/routing-table.md says how to use that.`,
		Example: `  kubectl shopset routes
  kubectl shopset routes -o haproxy --hosts domains.txt > cells.map
  kubectl shopset routes --table /var/lib/shopset-router/routes --keys keys.pem   # what a router has, with no cluster at all`,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: t.complete(func() client.ObjectList { return &v1alpha1.FleetList{} }),
		RunE: func(c *cobra.Command, args []string) error {
			if !slices.Contains(formats, o.output) {
				return usage(c, fmt.Errorf("-o %s is unknown; it is one of %s", o.output, strings.Join(formats, ", ")))
			}
			return t.routes(c.Context(), strings.Join(args, ""), o)
		},
	}
	c.Flags().StringVarP(&o.output, "output", "o", "table", strings.Join(formats, ", "))
	c.Flags().StringVar(&o.hosts, "hosts", "", "file with a host on each line (- is the standard input), for haproxy, nginx and dns")
	c.Flags().StringVar(&o.keys, "keys", "", "file with the public keys that routers trust; those that the operator publishes if not given")
	c.Flags().StringVar(&o.table, "table", "", "file with a signed table, as routers keep it, instead of the published one; takes --keys")
	return c
}

func (t *tool) routes(ctx context.Context, fleet string, o *routesOptions) error {
	export := slices.Contains(routetable.ExportFormats, o.output)
	switch {
	case export && o.hosts == "":
		return fmt.Errorf("which hosts? Placement is computed, so there is no list of them; give a file with one on each line by --hosts")
	case !export && o.hosts != "":
		return fmt.Errorf("--hosts is for -o %s", strings.Join(routetable.ExportFormats, ", "))
	}
	table, err := t.routesTable(ctx, fleet, o)
	if err != nil {
		return err
	}
	switch {
	case o.output == "json":
		return printJSON(t.Out, table)
	case !export:
		return newPrinter(t.Out).routes(table)
	}
	hosts, err := t.readHosts(o.hosts)
	if err != nil {
		return err
	}
	return table.Export(t.Out, o.output, hosts)
}

func (t *tool) routesTable(ctx context.Context, fleet string, o *routesOptions) (*routetable.Table, error) {
	if o.table == "" {
		if err := t.connect(); err != nil {
			return nil, err
		}
		f, err := t.getFleet(ctx, fleet)
		if err != nil {
			return nil, err
		}
		return t.publishedTable(ctx, f, o.keys)
	}
	if o.keys == "" {
		return nil, errors.New("a table from a file needs --keys: the public keys that the router trusts")
	}
	if fleet != "" {
		return nil, errors.New("a table from a file says itself of which fleet it is; leave the name out")
	}
	keys, err := readKeys(o.keys)
	if err != nil {
		return nil, fmt.Errorf("--keys: %w", err)
	}
	return routetable.LoadFile(o.table, keys)
}

// Bounds of a file of hosts.
const (
	maxHosts    = 2_000_000
	maxHostLine = 4096
)

// readHosts reads a host from each line; empty lines, and what follows a #, are left out.
func (t *tool) readHosts(path string) (hosts []string, err error) {
	in := t.In
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("--hosts: %w", err)
		}
		defer file.Close()
		in = file
	}
	scanner := bufio.NewScanner(in)
	scanner.Buffer(nil, maxHostLine)
	for n := 1; scanner.Scan(); n++ {
		text, _, _ := strings.Cut(scanner.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		if hosts = append(hosts, text); len(hosts) > maxHosts {
			return nil, fmt.Errorf("--hosts %s has more than %d hosts; split it", path, maxHosts)
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("--hosts %s, after %d hosts: %w", path, len(hosts), err)
	}
	return hosts, nil
}

// routes draws a table.
func (p *printer) routes(table *routetable.Table) error {
	function, err := table.Function()
	if err != nil {
		return err
	}
	shares := function.Shares()
	shard := "all cells may serve a host"
	if table.ShardSize > 0 {
		shard = count(table.ShardSize, "cell", "cells") + " may serve a host"
	}
	fmt.Fprintf(p, "Fleet %s: version %d of epoch %d, made %s; %s; hosts move while at most %d%% of the cells look dead\n",
		table.Fleet, table.Version, table.Epoch, table.Created.UTC().Format(time.RFC3339), shard, table.MaxFailover)
	lines := []line{{columns: columns("CELL", "STATE", "WEIGHT", "SHARE", "HTTPS", "HTTP", "PROBE")}}
	for i, cell := range table.Cells {
		probe := "none"
		if cell.Probe != nil {
			probe = fmt.Sprintf(":%d%s", cell.Probe.Port, cell.Probe.Path)
		}
		lines = append(lines, line{columns: columns(cell.Name, string(cell.State), fmt.Sprint(cell.Weight), fmt.Sprintf("%.1f%%", shares.Cells[i]*100),
			fmt.Sprint(len(cell.Endpoints.HTTPS)), fmt.Sprint(len(cell.Endpoints.HTTP)), probe)})
	}
	p.tree(lines)
	if len(table.Pins) == 0 {
		return nil
	}
	io.WriteString(p, "\n") //nolint:errcheck // The next write tells.
	lines = []line{{columns: columns("PIN", "CELL")}}
	for _, pin := range table.Pins {
		lines = append(lines, line{columns: columns(pin.Host, pin.Cell)})
	}
	p.tree(lines)
	return nil
}
