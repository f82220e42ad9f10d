// Command shopset-entrypoint renders an image's config files from its environment, checks them, and then
// becomes the image's program. See docs/entrypoint.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/shopset/shopset/internal/entrypoint"
)

const usage = `Usage:
  shopset-entrypoint [--in DIR --out DIR] [--render IN:OUT ...] [--schema FILE] [--check COMMAND] [-- PROGRAM ARGS...]
      renders all templates, runs the check, and becomes the program
  shopset-entrypoint doc   --schema FILE                         the table of variables, in Markdown
  shopset-entrypoint check --schema FILE [ENV-FILE ...]          validate env files, or the environment
  shopset-entrypoint diff  TEMPLATES [--schema FILE] OLD NEW     how the rendered files of two env files differ
  shopset-entrypoint vars  TEMPLATES                             which template uses which variable
  shopset-entrypoint lint  TEMPLATES --schema FILE               used and not declared, declared and not used
  shopset-entrypoint init  TEMPLATES                             a first schema

TEMPLATES is --in DIR, --render IN:OUT, or both. In DIR, NAME.tmpl is a Go template, NAME.template and
NAME.envsubst are templates with ${VARIABLE}, _NAME.tmpl is a partial, and other files are copied.
`

const (
	exitProblem = 1
	exitUsage   = 64
)

func main() {
	// It lives for milliseconds: the garbage is collected by its end, unless there is very much.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(64 << 20)
	os.Exit(run(os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// pairs is a flag that may be there several times.
type pairs []entrypoint.Pair

func (p *pairs) String() string { return "" }

func (p *pairs) Set(text string) error {
	pair, err := entrypoint.InputOf(text)
	*p = append(*p, pair)
	return err
}

func run(args, environment []string, stdout, stderr io.Writer) int {
	command := ""
	if len(args) > 0 && slices.Contains([]string{"doc", "check", "diff", "vars", "lint", "init"}, args[0]) {
		command, args = args[0], args[1:]
	}
	options := entrypoint.Options{Environment: environment, Stderr: stderr, Exec: syscall.Exec}
	flags := flag.NewFlagSet("shopset-entrypoint", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&options.In, "in", "", "folder of templates")
	flags.StringVar(&options.Out, "out", "", "folder for the files")
	flags.Var((*pairs)(&options.Pairs), "render", "IN:OUT")
	flags.StringVar(&options.Schema, "schema", "", "schema of the variables")
	if command == "" {
		flags.StringVar(&options.Check, "check", "", "command that must succeed")
	}
	rest, err := parse(flags, args, command != "")
	if err == nil {
		err = unused(flags, command)
	}
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		return 0
	}
	if err == nil {
		err = validate(command, &options, rest)
	}
	if err != nil {
		fmt.Fprintf(stderr, "shopset-entrypoint: %v\n\n%s", err, usage)
		return exitUsage
	}
	if command != "" {
		return tool(command, &options, rest, stdout, stderr)
	}
	options.Program = rest
	return entrypoint.Run(context.Background(), &options)
}

// parse reads flags; between the arguments of a tool, too.
func parse(flags *flag.FlagSet, args []string, mixed bool) (rest []string, err error) {
	for {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		args = flags.Args()
		if !mixed || len(args) == 0 {
			return append(rest, args...), nil
		}
		rest, args = append(rest, args[0]), args[1:]
	}
}

// toolFlags are the flags that each tool has.
var toolFlags = map[string][]string{
	"doc": {"schema"}, "check": {"schema"}, "diff": {"in", "render", "schema"}, "lint": {"in", "render", "schema"},
	"vars": {"in", "render"}, "init": {"in", "render"},
}

// unused refuses flags that a tool would not look at.
func unused(flags *flag.FlagSet, command string) (err error) {
	flags.Visit(func(f *flag.Flag) {
		if known := toolFlags[command]; command != "" && !slices.Contains(known, f.Name) && err == nil {
			err = fmt.Errorf("%s has no --%s; it takes --%s", command, f.Name, strings.Join(known, ", --"))
		}
	})
	return err
}

func validate(command string, o *entrypoint.Options, rest []string) error {
	templates := o.In != "" || len(o.Pairs) > 0
	switch {
	case o.Out != "" && o.In == "":
		return errors.New("--out without --in")
	case command == "" && o.In != "" && o.Out == "":
		return errors.New("--in without --out")
	case command == "" && !templates && o.Schema == "" && len(rest) == 0:
		return errors.New("nothing to do")
	case (command == "doc" || command == "check" || command == "lint") && o.Schema == "":
		return errors.New(command + " needs --schema")
	case slices.Contains([]string{"diff", "vars", "lint", "init"}, command) && !templates:
		return errors.New(command + " needs --in or --render")
	case command == "diff" && len(rest) != 2:
		return errors.New("diff takes two env files")
	case slices.Contains([]string{"doc", "vars", "lint", "init"}, command) && len(rest) > 0:
		return fmt.Errorf("%s takes no %q", command, rest[0])
	}
	return nil
}

func tool(command string, o *entrypoint.Options, rest []string, stdout, stderr io.Writer) int {
	var err error
	differs := false
	switch command {
	case "doc":
		err = entrypoint.Doc(stdout, o.Schema)
	case "check":
		err = entrypoint.Check(stdout, o.Schema, rest, o.Environment)
	case "diff":
		differs, err = entrypoint.Diff(stdout, o.Schema, &o.Sources, rest[0], rest[1])
	case "vars":
		err = entrypoint.Vars(stdout, &o.Sources)
	case "lint":
		err = entrypoint.Lint(o.Schema, &o.Sources)
	case "init":
		err = entrypoint.Init(stdout, &o.Sources)
	}
	if err != nil {
		entrypoint.Tell(stderr, err)
		return 2
	}
	if differs {
		return exitProblem
	}
	return 0
}
