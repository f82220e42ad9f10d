package devcluster

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Images maps the names of images to what hack/image built.
type Images map[string]struct {
	Ref string `json:"ref"`
	Tar string `json:"tar"`
}

// ReadImages reads the list that hack/image wrote.
func (t *Target) ReadImages() (Images, error) {
	path := filepath.Join(t.State, "images", "images.json")
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("no images are built: %w; run `make images`", err)
	}
	var images Images
	if err := json.Unmarshal(content, &images); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return images, nil
}

// LoadImages makes all images known to the cluster.
func (t *Target) LoadImages(ctx context.Context, images Images) error {
	var files []string
	for _, image := range images {
		files = append(files, filepath.Join(t.State, "images", image.Tar))
	}
	slices.Sort(files)
	if t.Local {
		return t.Run(ctx, t.Tool("localcluster"), append([]string{"load"}, files...)...)
	}
	loader := os.Getenv("IMAGE_LOAD")
	if loader == "" {
		return fmt.Errorf("your own cluster needs a way to get images: set IMAGE_LOAD to a command that takes image files, for instance IMAGE_LOAD='kind load image-archive'")
	}
	words := strings.Fields(loader)
	for _, file := range files {
		command := Command(ctx, words[0], append(words[1:], file)...)
		command.Stdout, command.Stderr = os.Stderr, os.Stderr
		if err := command.Run(); err != nil {
			return fmt.Errorf("%s %s: %w", loader, file, err)
		}
	}
	return nil
}

// Pin replaces localhost/NAME:dev by the reference that names the image's content, so that a changed
// image restarts exactly the Pods that run it.
func (i Images) Pin(manifest string) string {
	for name, image := range i {
		manifest = strings.ReplaceAll(manifest, "localhost/"+name+":dev", image.Ref)
	}
	return manifest
}
