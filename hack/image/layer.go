package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// epoch is the time of everything in an image, so that the same input gives the same image.
var epoch = time.Unix(0, 0).UTC()

// layer is an uncompressed layer in memory or in a file. Nobody downloads it, so packing it would
// only cost time here and at the import.
type layer struct {
	open func() (io.ReadCloser, error)
	hash v1.Hash
	size int64
}

func (l *layer) Digest() (v1.Hash, error)             { return l.hash, nil }
func (l *layer) DiffID() (v1.Hash, error)             { return l.hash, nil }
func (l *layer) Compressed() (io.ReadCloser, error)   { return l.open() }
func (l *layer) Uncompressed() (io.ReadCloser, error) { return l.open() }
func (l *layer) Size() (int64, error)                 { return l.size, nil }
func (l *layer) MediaType() (types.MediaType, error)  { return types.DockerUncompressedLayer, nil }

func fileLayer(file string) (*layer, error) {
	sum, size, err := hashFile(file)
	if err != nil {
		return nil, err
	}
	return &layer{
		open: func() (io.ReadCloser, error) { return os.Open(file) },
		hash: v1.Hash{Algorithm: "sha256", Hex: sum}, size: size,
	}, nil
}

func bytesLayer(content []byte) *layer {
	sum := sha256.Sum256(content)
	return &layer{
		open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
		hash: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}, size: int64(len(content)),
	}
}

func hashFile(file string) (sum string, size int64, err error) {
	source, err := os.Open(file)
	if err != nil {
		return "", 0, err
	}
	defer source.Close()
	hash := sha256.New()
	size, err = io.Copy(hash, source)
	return hex.EncodeToString(hash.Sum(nil)), size, err
}

// entry is one file, or one folder when content is nil.
type entry struct {
	path    string
	mode    int64
	owner   string
	content []byte
}

// writeEntries writes entries in the order of their paths, each after the folders it is in, unless
// exists says that these are there already.
func writeEntries(w *tar.Writer, entries []entry, exists func(string) bool) error {
	all := map[string]entry{}
	for _, e := range entries {
		e.path = strings.Trim(path.Clean(e.path), "/")
		all[e.path] = e
	}
	for _, e := range entries {
		for folder := path.Dir(strings.Trim(path.Clean(e.path), "/")); folder != "."; folder = path.Dir(folder) {
			if _, listed := all[folder]; !listed && !exists(folder) {
				all[folder] = entry{path: folder, mode: 0o755, owner: "0:0"}
			}
		}
	}
	paths := make([]string, 0, len(all))
	for name := range all {
		paths = append(paths, name)
	}
	sort.Strings(paths)
	for _, name := range paths {
		e := all[name]
		header := &tar.Header{Name: name, Mode: e.mode, ModTime: epoch, Format: tar.FormatPAX, Typeflag: tar.TypeReg, Size: int64(len(e.content))}
		if e.content == nil {
			header.Name, header.Typeflag = name+"/", tar.TypeDir
		}
		header.Uid, header.Gid = ids(e.owner)
		if err := w.WriteHeader(header); err != nil {
			return err
		}
		if _, err := w.Write(e.content); err != nil {
			return err
		}
	}
	return nil
}

func ids(owner string) (uid, gid int) {
	user, group, _ := strings.Cut(owner, ":")
	uid, _ = strconv.Atoi(user)
	gid, _ = strconv.Atoi(group)
	return uid, gid
}

// entriesLayer is a layer with nothing but entries.
func entriesLayer(entries []entry) (*layer, error) {
	var content bytes.Buffer
	w := tar.NewWriter(&content)
	if err := writeEntries(w, entries, func(string) bool { return false }); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return bytesLayer(content.Bytes()), nil
}

// fileEntries reads the extra files of a recipe.
func fileEntries(root string, files []File) ([]entry, error) {
	var entries []entry
	for _, file := range files {
		e := entry{path: file.Path, mode: int64(file.Mode), owner: file.Owner}
		if !file.folder() {
			content, err := os.ReadFile(filepath.Join(root, file.From))
			if err != nil {
				return nil, fmt.Errorf("file %s: %w", file.Path, err)
			}
			e.content = append([]byte{}, content...)
		}
		entries = append(entries, e)
	}
	return entries, nil
}
