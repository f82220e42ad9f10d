package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
)

// buildPrograms builds the programs of all images, those of one module in one go, and returns where
// they are by image name. A program that did not change keeps its file.
func (b *builder) buildPrograms(ctx context.Context, images []GoImage) (map[string]string, error) {
	modules := map[string][]GoImage{}
	var problems []error
	for _, image := range images {
		module, err := b.moduleOf(image)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		modules[module] = append(modules[module], image)
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	programs := map[string]string{}
	names := make([]string, 0, len(modules))
	for module := range modules {
		names = append(names, module)
	}
	sort.Strings(names)
	for _, module := range names {
		if err := b.buildModule(ctx, module, modules[module], programs); err != nil {
			return nil, err
		}
	}
	return programs, nil
}

// moduleOf returns the folder of the module that an image's package is in.
func (b *builder) moduleOf(image GoImage) (string, error) {
	folder := filepath.Join(b.root, image.Package)
	if sources, _ := filepath.Glob(filepath.Join(folder, "*.go")); len(sources) == 0 {
		return "", fmt.Errorf("image %s: there is no Go package in %s; name the images to build to leave this one out", image.Name, image.Package)
	}
	for at := folder; len(at) >= len(b.root); at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
			return at, nil
		}
	}
	return "", fmt.Errorf("image %s: there is no go.mod above %s", image.Name, image.Package)
}

func (b *builder) buildModule(ctx context.Context, module string, images []GoImage, programs map[string]string) error {
	relative, err := filepath.Rel(b.root, module)
	if err != nil {
		return err
	}
	// go build names programs after their folders; two of the same name need a folder each.
	rounds := []map[string]GoImage{}
	for _, image := range images {
		program := filepath.Base(image.Package)
		i := 0
		for i < len(rounds) && rounds[i][program].Name != "" {
			i++
		}
		if i == len(rounds) {
			rounds = append(rounds, map[string]GoImage{})
		}
		rounds[i][program] = image
	}
	for i, round := range rounds {
		folder := filepath.Join(b.cache(), "bin", strings.ReplaceAll(relative, string(filepath.Separator), "_"), fmt.Sprint(i))
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
		arguments := []string{"build", "-trimpath", "-buildvcs=false", "-tags", "timetzdata", "-ldflags", "-s -w",
			"-o", folder + string(filepath.Separator)}
		var packages []string
		for program, image := range round {
			below, err := filepath.Rel(module, filepath.Join(b.root, image.Package))
			if err != nil {
				return err
			}
			packages = append(packages, "./"+filepath.ToSlash(below))
			programs[image.Name] = filepath.Join(folder, program)
		}
		sort.Strings(packages)
		command := interruptible(exec.CommandContext(ctx, "go", append(arguments, packages...)...))
		command.Dir = module
		command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOWORK=off", "GOFLAGS=")
		var output bytes.Buffer
		command.Stdout, command.Stderr = &output, &output
		if err := command.Run(); err != nil {
			return fmt.Errorf("go build of module %s: %w\n%s", relative, err, strings.TrimSpace(output.String()))
		}
	}
	return nil
}

// baseEntries are the files that all Go images share.
func baseEntries() ([]entry, error) {
	const bundle = "/etc/ssl/certs/ca-certificates.crt"
	certificates, err := os.ReadFile(bundle)
	if err != nil {
		return nil, fmt.Errorf("CA certificates: %w (install the Debian package ca-certificates)", err)
	}
	text := func(path, content string) entry { return entry{path, 0o644, "0:0", []byte(content)} }
	return []entry{
		text("/etc/group", "root:x:0:\nnonroot:x:65532:\n"),
		text("/etc/nsswitch.conf", "hosts: files dns\n"),
		text("/etc/passwd", "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n"),
		text("/etc/ssl/certs/ca-certificates.crt", string(certificates)),
		{"/tmp", 0o1777, "0:0", nil},
	}, nil
}

// goLayers are the layers of a Go image.
func (b *builder) goLayers(image GoImage, base *layer, program string) ([]*layer, error) {
	content, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	entries, err := fileEntries(b.root, image.Files)
	if err != nil {
		return nil, err
	}
	own, err := entriesLayer(append(entries, entry{"/usr/bin/" + image.Name, 0o755, "0:0", content}))
	if err != nil {
		return nil, err
	}
	return []*layer{base, own}, nil
}
