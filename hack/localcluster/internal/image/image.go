// Package image packs static programs into images, without a registry and without a builder, and
// brings image files into a running cluster.
package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// nobody is the user that images run as: restricted Pods refuse root.
const nobody = "65532:65532"

// Pack writes a docker-archive of an image that holds one static program and runs it. Two runs
// with the same program write the same bytes.
func Pack(ref, program, file string) error {
	tag, err := name.NewTag(ref)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	header := &tar.Header{Name: "program", Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	if _, err := w.Write(content); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(archive.Bytes())), nil
	})
	if err != nil {
		return err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return err
	}
	image, err = mutate.ConfigFile(image, &v1.ConfigFile{
		OS: "linux", Architecture: runtime.GOARCH,
		RootFS:  rootFS(image),
		Config:  v1.Config{Entrypoint: []string{"/program"}, User: nobody, WorkingDir: "/"},
		History: []v1.History{{CreatedBy: "localcluster"}},
	})
	if err != nil {
		return err
	}
	if err := tarball.WriteToFile(file+".new", tag, image); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return os.Rename(file+".new", file)
}

func rootFS(image v1.Image) v1.RootFS {
	config, err := image.ConfigFile()
	if err != nil {
		return v1.RootFS{Type: "layers"}
	}
	return config.RootFS
}
