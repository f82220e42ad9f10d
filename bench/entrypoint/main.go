// Command entrypoint measures how long an image waits for its config: 100 templates of an nginx, rendered
// by shopset-entrypoint and by what images use instead, each followed by the program `true`. See the README
// of bench/.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/shopset/shopset/bench/internal/report"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench entrypoint:", err)
		os.Exit(1)
	}
}

// contender is one way to get from templates to the program.
type contender struct {
	name    string
	command []string
	// out is the folder that it fills; empty for the bare program.
	out   string
	times []float64
}

func run(ctx context.Context) error {
	templates := flag.Int("templates", 100, "how many templates")
	rounds := flag.Int("rounds", 30, "how often the contenders take turns")
	flag.Parse()
	// In memory: how fast a disk makes files is not what is compared.
	parent := "/dev/shm"
	if _, err := os.Stat(parent); err != nil {
		parent = ""
	}
	folder, err := os.MkdirTemp(parent, "bench-entrypoint-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	ours := filepath.Join(folder, "shopset-entrypoint")
	peer := filepath.Join(folder, "envsubst-go")
	if err := errors.Join(
		build(ctx, ours, "..", "./cmd/shopset-entrypoint"),
		build(ctx, peer, ".", "github.com/a8m/envsubst/cmd/envsubst"),
		writeTemplates(folder, *templates),
	); err != nil {
		return err
	}
	contenders := []*contender{
		{name: "program", command: []string{"/bin/true"}},
		// The same texts, so that the results can be compared.
		{name: "ours", out: "ours", command: []string{ours, "--in", "in", "--out", "ours", "--", "/bin/true"}},
		{name: "ours_go_templates", out: "ours-go", command: []string{ours, "--in", "in-go", "--out", "ours-go", "--", "/bin/true"}},
		{name: "ours_with_schema", out: "ours-schema", command: []string{ours, "--in", "in", "--out", "ours-schema", "--schema", "schema.yaml", "--", "/bin/true"}},
		loop("envsubst", "gettext", "envsubst"),
		loop("envsubst_go", "peer", peer),
	}
	for range *rounds {
		for _, c := range contenders {
			if err := c.turn(ctx, folder); err != nil {
				return err
			}
		}
	}
	if err := compare(folder, contenders, *templates); err != nil {
		return err
	}
	return tell(contenders, ours)
}

// loop is how the entrypoint of nginx's own image does it: one envsubst per file.
func loop(name, out, program string) *contender {
	return &contender{name: name, out: out, command: []string{"/bin/sh", "-c",
		`mkdir -p ` + out + `; for f in in/*; do ` + program + ` <"$f" >"` + out + `/$(basename "$f" .template)" || exit 1; done; exec /bin/true`}}
}

func build(ctx context.Context, out, folder, pkg string) error {
	command := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, pkg)
	command.Dir, command.Env = folder, append(os.Environ(), "CGO_ENABLED=0")
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, output)
	}
	return nil
}

const variables = 20

// writeTemplates makes files of 60 lines with ten variables each, in both languages, and a schema.
func writeTemplates(folder string, n int) error {
	schema := "prefix: NGINX_\nvariables:\n"
	for i := range variables {
		schema += fmt.Sprintf("- {name: NGINX_V%d, type: hostport, required: true}\n", i)
	}
	err := os.WriteFile(filepath.Join(folder, "schema.yaml"), []byte(schema), 0o600)
	for _, sub := range []string{"in", "in-go"} {
		err = errors.Join(err, os.Mkdir(filepath.Join(folder, sub), 0o700))
	}
	for i := range n {
		var shell, golang strings.Builder
		for line := range 60 {
			if line%6 > 0 {
				text := fmt.Sprintf("    location /%d/%d { add_header X-Line \"some header\"; return 204; }\n", i, line)
				shell.WriteString(text)
				golang.WriteString(text)
				continue
			}
			name := fmt.Sprintf("NGINX_V%d", (i+line/6)%variables)
			fmt.Fprintf(&shell, "    proxy_pass http://${%s}/%d;\n", name, line)
			fmt.Fprintf(&golang, "    proxy_pass http://{{ .%s }}/%d;\n", name, line)
		}
		name := fmt.Sprintf("%03d.conf", i)
		err = errors.Join(err,
			os.WriteFile(filepath.Join(folder, "in", name+".template"), []byte(shell.String()), 0o600),
			os.WriteFile(filepath.Join(folder, "in-go", name+".tmpl"), []byte(golang.String()), 0o600))
	}
	return err
}

// turn runs a contender once, as at the first start of a container: nothing is there yet.
func (c *contender) turn(ctx context.Context, folder string) error {
	if c.out != "" {
		if err := os.RemoveAll(filepath.Join(folder, c.out)); err != nil {
			return err
		}
	}
	command := exec.CommandContext(ctx, c.command[0], c.command[1:]...)
	command.Dir, command.Env = folder, []string{"PATH=" + os.Getenv("PATH")}
	for i := range variables {
		command.Env = append(command.Env, fmt.Sprintf("NGINX_V%d=app-%d:8080", i, i))
	}
	began := time.Now()
	output, err := command.CombinedOutput()
	c.times = append(c.times, float64(time.Since(began).Microseconds())/1000)
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", c.name, err, output)
	}
	return nil
}

// compare makes sure that all have done the same work.
func compare(folder string, contenders []*contender, n int) error {
	var want []byte
	for _, c := range contenders {
		if c.out == "" {
			continue
		}
		files, err := filepath.Glob(filepath.Join(folder, c.out, "*.conf"))
		if err != nil || len(files) != n {
			return fmt.Errorf("%s made %d files, want %d: %w", c.name, len(files), n, err)
		}
		slices.Sort(files)
		var got []byte
		for _, file := range files {
			content, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			got = append(got, content...)
		}
		if want == nil {
			want = got
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("%s made other files than %s", c.name, contenders[1].name)
		}
	}
	return nil
}

func tell(contenders []*contender, binary string) error {
	bare := report.Median(contenders[0].times)
	ours := 0.0
	for _, c := range contenders {
		median := report.Median(c.times)
		report.Result("entrypoint."+c.name+"_ms", median, "ms")
		switch {
		case c.name == "ours":
			ours = median
			report.Result("entrypoint.overhead_ms", median-bare, "ms")
		case strings.HasPrefix(c.name, "envsubst"):
			report.Result("entrypoint.vs_"+c.name, median/ours, "x")
		}
	}
	info, err := os.Stat(binary)
	if err != nil {
		return err
	}
	report.Result("entrypoint.binary_mib", float64(info.Size())/(1<<20), "MiB")
	return nil
}
