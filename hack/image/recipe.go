package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Recipes is the file images.yaml.
type Recipes struct {
	// Go images hold one Go program each.
	Go []GoImage `yaml:"go"`
	// Debian images hold Debian packages.
	Debian []DebianImage `yaml:"debian"`
}

// Runtime is what an image tells those who start it.
type Runtime struct {
	// User is who the program runs as, UID:GID in numbers. Default 65532:65532.
	User string `yaml:"user"`
	// Entrypoint is the command. Default for Go images: the program.
	Entrypoint []string `yaml:"entrypoint"`
	// Command are the arguments to it that a user is expected to replace.
	Command []string `yaml:"command"`
	// Env is NAME=VALUE.
	Env []string `yaml:"env"`
	// Ports are the ports the program listens on, like 8080/tcp.
	Ports []string `yaml:"ports"`
	// StopSignal ends the program. Default SIGTERM.
	StopSignal string `yaml:"stopSignal"`
	// Title is one line about the image.
	Title string `yaml:"title"`
}

// File is a file or folder that is added to an image.
type File struct {
	// Path in the image. One that ends with a slash is a folder.
	Path string `yaml:"path"`
	// From is the file in the repository that it is copied from; empty for a folder and for a program.
	From string `yaml:"from"`
	// Program is the folder of a package main in the repository, whose program the file is; Debian images only.
	Program string `yaml:"program"`
	// Mode in octal. Default 0644, for folders 0755.
	Mode uint32 `yaml:"mode"`
	// Owner is UID:GID. Default 0:0.
	Owner string `yaml:"owner"`
}

// GoImage is one Go program.
type GoImage struct {
	// Name of the image and of the program in it.
	Name string `yaml:"name"`
	// Package is the folder of package main in the repository. The module is the nearest go.mod above.
	Package string `yaml:"package"`
	// Files are added to the image.
	Files   []File `yaml:"files"`
	Runtime `yaml:",inline"`
}

// DebianImage is a minimal Debian with packages.
type DebianImage struct {
	// Name of the image.
	Name string `yaml:"name"`
	// Suite of Debian.
	Suite string `yaml:"suite"`
	// Packages to install, with what they depend on but not what they recommend.
	Packages []string `yaml:"packages"`
	// Account is created with the ids of user before any package is installed, so that these ids are
	// the same in every build.
	Account string `yaml:"account"`
	// OnDemand images are only built when they are named.
	OnDemand bool `yaml:"onDemand"`
	// Remove are patterns of paths that are left out, with all below them. * stops at a slash.
	Remove []string `yaml:"remove"`
	// Files are added to the image.
	Files   []File `yaml:"files"`
	Runtime `yaml:",inline"`
}

func readRecipes(path string) (*Recipes, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseRecipes(path, content)
}

func parseRecipes(path string, content []byte) (*Recipes, error) {
	recipes := &Recipes{}
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	decoder.KnownFields(true)
	if err := decoder.Decode(recipes); err != nil {
		return nil, fmt.Errorf("%s: %s", path, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := recipes.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return recipes, nil
}

var (
	imageName = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	numericID = regexp.MustCompile(`^\d+:\d+$`)
)

// check fills in defaults and reports every problem.
func (r *Recipes) check() error {
	var problems []error
	seen := map[string]bool{}
	common := func(name string, runtime *Runtime, files []File) {
		problem := func(format string, arguments ...any) {
			problems = append(problems, fmt.Errorf("image %q: "+format, append([]any{name}, arguments...)...))
		}
		if !imageName.MatchString(name) {
			problem("the name must be lower-case letters, digits and dashes")
		}
		if seen[name] {
			problem("the name is used twice")
		}
		seen[name] = true
		if runtime.User == "" {
			runtime.User = "65532:65532"
		}
		if !numericID.MatchString(runtime.User) {
			problem("user %q: want UID:GID in numbers, so that Kubernetes can see that it is not root", runtime.User)
		}
		for i := range files {
			file := &files[i]
			if file.Owner == "" {
				file.Owner = "0:0"
			}
			if file.Mode == 0 {
				file.Mode = 0o644
				if file.folder() {
					file.Mode = 0o755
				}
			}
			if !strings.HasPrefix(file.Path, "/") || file.folder() != (file.From == "" && file.Program == "") || !numericID.MatchString(file.Owner) {
				problem("file %q: want an absolute path, a source (folders, which end with a slash, have none) and an owner UID:GID", file.Path)
			}
		}
	}
	for i := range r.Go {
		image := &r.Go[i]
		common(image.Name, &image.Runtime, image.Files)
		if image.Package == "" {
			problems = append(problems, fmt.Errorf("image %q: package is missing", image.Name))
		}
		if len(image.Entrypoint) == 0 {
			image.Entrypoint = []string{"/usr/bin/" + image.Name}
		}
	}
	for i := range r.Debian {
		image := &r.Debian[i]
		common(image.Name, &image.Runtime, image.Files)
		if image.Suite == "" || len(image.Packages) == 0 || len(image.Entrypoint) == 0 {
			problems = append(problems, fmt.Errorf("image %q: a Debian image wants suite, packages and entrypoint", image.Name))
		}
	}
	return errors.Join(problems...)
}

func (f File) folder() bool { return strings.HasSuffix(f.Path, "/") }

// selection returns the recipes of the named images, all when there are no names.
func (r *Recipes) selection(names []string) (*Recipes, error) {
	if len(names) == 0 {
		usual := &Recipes{Go: r.Go}
		for _, image := range r.Debian {
			if !image.OnDemand {
				usual.Debian = append(usual.Debian, image)
			}
		}
		return usual, nil
	}
	selected, known := &Recipes{}, []string{}
	for _, image := range r.Go {
		known = append(known, image.Name)
		if slices.Contains(names, image.Name) {
			selected.Go = append(selected.Go, image)
		}
	}
	for _, image := range r.Debian {
		known = append(known, image.Name)
		if slices.Contains(names, image.Name) {
			selected.Debian = append(selected.Debian, image)
		}
	}
	var problems []error
	for _, name := range names {
		if !slices.Contains(known, name) {
			problems = append(problems, fmt.Errorf("there is no image %q: want one of %s", name, strings.Join(known, ", ")))
		}
	}
	return selected, errors.Join(problems...)
}
