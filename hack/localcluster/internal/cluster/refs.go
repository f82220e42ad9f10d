package cluster

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// refsOf returns the names of the images in an image file. docker-archive says them in
// manifest.json, an OCI layout in annotations of index.json; a file may have both.
func refsOf(file string) ([]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var names []string
	archive := tar.NewReader(f)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%s is not an image file: %w", file, err)
		}
		var found []string
		switch strings.TrimPrefix(header.Name, "./") {
		case "manifest.json":
			found, err = dockerNames(archive)
		case "index.json":
			found, err = ociNames(archive)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", file, header.Name, err)
		}
		names = append(names, found...)
	}
	seen := make(map[string]bool)
	var refs []string
	for _, name := range names {
		if ref := normalize(name); !seen[ref] {
			seen[ref] = true
			refs = append(refs, ref)
		}
	}
	if len(refs) == 0 {
		return nil, fmt.Errorf("%s names no image; build it with a name and a tag, for instance localhost/shop:dev", file)
	}
	return refs, nil
}

func dockerNames(r io.Reader) ([]string, error) {
	var manifests []struct{ RepoTags []string }
	if err := json.NewDecoder(r).Decode(&manifests); err != nil {
		return nil, err
	}
	var names []string
	for _, manifest := range manifests {
		names = append(names, manifest.RepoTags...)
	}
	return names, nil
}

func ociNames(r io.Reader) ([]string, error) {
	var index struct {
		Manifests []struct{ Annotations map[string]string }
	}
	if err := json.NewDecoder(r).Decode(&index); err != nil {
		return nil, err
	}
	var names []string
	for _, manifest := range index.Manifests {
		if name := manifest.Annotations["io.containerd.image.name"]; name != "" {
			names = append(names, name)
		} else if name := manifest.Annotations["org.opencontainers.image.ref.name"]; strings.ContainsAny(name, ":/") {
			names = append(names, name)
		}
	}
	return names, nil
}

// normalize gives a name the form that containerd and the kubelet use.
func normalize(name string) string {
	first, _, slash := strings.Cut(name, "/")
	switch {
	case !slash:
		name = "docker.io/library/" + name
	case !strings.ContainsAny(first, ".:") && first != "localhost":
		name = "docker.io/" + name
	}
	if i := strings.LastIndex(name, "/"); !strings.ContainsAny(name[i:], ":@") {
		name += ":latest"
	}
	return name
}
