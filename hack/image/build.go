package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// recipeVersion is part of every image's key. Raise it when this program makes another image of the
// same recipe.
const recipeVersion = "1"

// builder builds images into a folder.
type builder struct {
	root, out string
	force     bool
	log       io.Writer
	built     map[string]Built
}

// Built is what images.json says of an image.
type Built struct {
	// Ref is the immutable name: localhost/NAME:dev-<12 hex digits>.
	Ref string `json:"ref"`
	// Tar is the file, relative to images.json.
	Tar string `json:"tar"`
	// Digest is the image id.
	Digest string `json:"digest"`
	// Size is that of the tar in bytes.
	Size int64 `json:"size"`
}

func (b *builder) cache() string { return filepath.Join(b.out, ".cache") }

// build builds the named images, all when there are no names.
func (b *builder) build(ctx context.Context, recipes *Recipes, names []string) error {
	selected, err := recipes.selection(names)
	if err != nil {
		return err
	}
	if b.out, err = filepath.Abs(b.out); err != nil {
		return err
	}
	if err := os.MkdirAll(b.cache(), 0o755); err != nil {
		return err
	}
	unlock, err := b.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := b.readBuilt(); err != nil {
		return err
	}
	programs, err := b.buildPrograms(ctx, selected.Go)
	if err != nil {
		return err
	}
	if err := b.buildGo(selected.Go, programs); err != nil {
		return err
	}
	for _, image := range selected.Debian {
		if err := b.buildDebian(ctx, image); err != nil {
			return fmt.Errorf("image %s: %w", image.Name, err)
		}
	}
	return nil
}

func (b *builder) buildGo(images []GoImage, programs map[string]string) error {
	if len(images) == 0 {
		return nil
	}
	entries, err := baseEntries()
	if err != nil {
		return err
	}
	base, err := entriesLayer(entries)
	if err != nil {
		return err
	}
	for _, image := range images {
		program := programs[image.Name]
		err := b.once(image.Name, image.Runtime, func() (string, error) {
			sum, _, err := hashFile(program)
			if err != nil {
				return "", err
			}
			return b.key(image, image.Files, base.hash.Hex, sum)
		}, func() ([]*layer, error) { return b.goLayers(image, base, program) })
		if err != nil {
			return fmt.Errorf("image %s: %w", image.Name, err)
		}
	}
	return nil
}

func (b *builder) buildDebian(ctx context.Context, image DebianImage) error {
	files, err := b.withPrograms(ctx, image.Files)
	if err != nil {
		return err
	}
	image.Files = files
	defer os.Remove(b.pathOf(image.Name))
	return b.once(image.Name, image.Runtime,
		func() (string, error) { return b.key(image, image.Files) },
		func() ([]*layer, error) {
			fmt.Fprintf(b.log, "%-18s installing %s, this takes a minute\n", image.Name, strings.Join(image.Packages, ", "))
			root, err := b.debianLayer(ctx, image, b.pathOf(image.Name))
			return []*layer{root}, err
		})
}

// withPrograms builds the files that are Go programs.
func (b *builder) withPrograms(ctx context.Context, files []File) ([]File, error) {
	files = slices.Clone(files)
	for i := range files {
		file := &files[i]
		if file.Program == "" {
			continue
		}
		name := path.Base(file.Program)
		programs, err := b.buildPrograms(ctx, []GoImage{{Name: name, Package: file.Program}})
		if err != nil {
			return nil, err
		}
		if file.From, err = filepath.Rel(b.root, programs[name]); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// key is a hash over all that an image is made of.
func (b *builder) key(recipe any, files []File, more ...string) (string, error) {
	hash := sha256.New()
	if err := json.NewEncoder(hash).Encode([]any{recipeVersion, recipe, more}); err != nil {
		return "", err
	}
	for _, file := range files {
		if file.folder() {
			continue
		}
		sum, _, err := hashFile(filepath.Join(b.root, file.From))
		if err != nil {
			return "", err
		}
		fmt.Fprintln(hash, file.Path, sum)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// once writes an image unless the one that is there was made from the same.
func (b *builder) once(name string, r Runtime, key func() (string, error), layers func() ([]*layer, error)) error {
	started := time.Now()
	want, err := key()
	if err != nil {
		return err
	}
	keyFile := filepath.Join(b.cache(), name+".key")
	if have, err := os.ReadFile(keyFile); err == nil && string(have) == want && !b.force && b.intact(name) {
		fmt.Fprintf(b.log, "%-18s unchanged  %s\n", name, b.built[name].Ref)
		return nil
	}
	if err := os.Remove(keyFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	content, err := layers()
	if err != nil {
		return err
	}
	built, err := b.write(name, r, content)
	if err != nil {
		return err
	}
	b.built[name] = built
	if err := b.writeBuilt(); err != nil {
		return err
	}
	if err := os.WriteFile(keyFile, []byte(want), 0o644); err != nil {
		return err
	}
	fmt.Fprintf(b.log, "%-18s built      %s  %.1f MiB in %.1f s\n", name, built.Ref,
		float64(built.Size)/(1<<20), time.Since(started).Seconds())
	return nil
}

// intact says whether the tar that images.json speaks of is there.
func (b *builder) intact(name string) bool {
	built, ok := b.built[name]
	if !ok {
		return false
	}
	info, err := os.Stat(filepath.Join(b.out, built.Tar))
	return err == nil && info.Size() == built.Size
}

// write assembles an image and writes its tar.
func (b *builder) write(imageName string, r Runtime, layers []*layer) (Built, error) {
	image := empty.Image
	for i, l := range layers {
		var err error
		image, err = mutate.Append(image, mutate.Addendum{Layer: l, History: v1.History{
			Created: v1.Time{Time: epoch}, CreatedBy: fmt.Sprintf("hack/image: layer %d of %s", i+1, imageName),
		}})
		if err != nil {
			return Built{}, err
		}
	}
	config, err := image.ConfigFile()
	if err != nil {
		return Built{}, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", runtime.GOARCH, v1.Time{Time: epoch}
	config.Config = r.config(imageName)
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return Built{}, err
	}
	id, err := image.ConfigName()
	if err != nil {
		return Built{}, err
	}
	moving, err := name.NewTag("localhost/" + imageName + ":dev")
	if err != nil {
		return Built{}, err
	}
	fixed, err := name.NewTag("localhost/" + imageName + ":dev-" + id.Hex[:12])
	if err != nil {
		return Built{}, err
	}
	built := Built{Ref: fixed.String(), Tar: imageName + ".tar", Digest: id.String()}
	file := filepath.Join(b.out, built.Tar)
	defer os.Remove(file + ".new")
	if err := tarball.MultiWriteToFile(file+".new", map[name.Tag]v1.Image{moving: image, fixed: image}); err != nil {
		return Built{}, err
	}
	info, err := os.Stat(file + ".new")
	if err != nil {
		return Built{}, err
	}
	built.Size = info.Size()
	return built, os.Rename(file+".new", file)
}

func (r Runtime) config(imageName string) v1.Config {
	env := r.Env
	if !strings.HasPrefix(strings.Join(env, "\n"), "PATH=") && !strings.Contains(strings.Join(env, "\n"), "\nPATH=") {
		env = append([]string{"PATH=/usr/local/bin:/usr/bin:/bin"}, env...)
	}
	config := v1.Config{
		User: r.User, Entrypoint: r.Entrypoint, Cmd: r.Command, Env: env, StopSignal: r.StopSignal, WorkingDir: "/",
		Labels: map[string]string{
			"org.opencontainers.image.title":       imageName,
			"org.opencontainers.image.description": r.Title,
			"org.opencontainers.image.source":      "https://github.com/shopset/shopset",
			"org.opencontainers.image.licenses":    "Apache-2.0",
		},
	}
	for _, port := range r.Ports {
		if config.ExposedPorts == nil {
			config.ExposedPorts = map[string]struct{}{}
		}
		config.ExposedPorts[port] = struct{}{}
	}
	return config
}

func (b *builder) readBuilt() error {
	b.built = map[string]Built{}
	content, err := os.ReadFile(filepath.Join(b.out, "images.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(content, &b.built); err != nil {
		return fmt.Errorf("%s is damaged, delete it: %w", filepath.Join(b.out, "images.json"), err)
	}
	return nil
}

func (b *builder) writeBuilt() error {
	content, err := json.MarshalIndent(b.built, "", "  ")
	if err != nil {
		return err
	}
	file := filepath.Join(b.out, "images.json")
	if err := os.WriteFile(file+".new", append(content, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// lock keeps two builds out of one folder; the second waits.
func (b *builder) lock() (unlock func(), err error) {
	file, err := os.Create(filepath.Join(b.cache(), "lock"))
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		file.Close()
		return nil, fmt.Errorf("lock %s: %w", b.out, err)
	}
	return func() { file.Close() }, nil
}
