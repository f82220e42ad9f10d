package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

const usage = "usage: image build [--out DIR] [--force] [NAME…]"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		if errors.Is(err, flag.ErrHelp) {
			os.Exit(2)
		}
		for line := range strings.SplitSeq(err.Error(), "\n") {
			fmt.Fprintf(os.Stderr, "image: %s\n", line)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, arguments []string, output io.Writer) error {
	if len(arguments) == 0 || arguments[0] != "build" {
		return errors.New(usage)
	}
	flags := flag.NewFlagSet("image build", flag.ContinueOnError)
	out := flags.String("out", "", "`folder` of the images (default .state/images in the repository; SHOPSET_STATE replaces .state)")
	force := flags.Bool("force", false, "build also what did not change")
	if err := flags.Parse(arguments[1:]); err != nil {
		return flag.ErrHelp
	}
	root, err := repositoryRoot()
	if err != nil {
		return err
	}
	recipes, err := readRecipes(filepath.Join(root, "hack/image/images.yaml"))
	if err != nil {
		return err
	}
	if *out == "" {
		state := os.Getenv("SHOPSET_STATE")
		if state == "" {
			state = filepath.Join(root, ".state")
		}
		*out = filepath.Join(state, "images")
	}
	b := &builder{root: root, out: *out, force: *force, log: output}
	return b.build(ctx, recipes, flags.Args())
}

// repositoryRoot looks upwards for the folder that has the recipes.
func repositoryRoot() (string, error) {
	directory, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for at := directory; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "hack/image/images.yaml")); err == nil {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("%s is not inside the repository: found no hack/image/images.yaml above it", directory)
		}
	}
}
