package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// debianLayer makes the root file system of a Debian image and writes it, thinned, to target.
func (b *builder) debianLayer(ctx context.Context, image DebianImage, target string) (*layer, error) {
	if err := b.need(ctx, "mmdebstrap", "mmdebstrap"); err != nil {
		return nil, err
	}
	sources, err := mirrors("/etc", image.Suite)
	if err != nil {
		return nil, fmt.Errorf("package sources of this machine: %w", err)
	}
	full := target + ".full"
	defer os.Remove(full)
	arguments := []string{"--variant=minbase", "--format=tar", "--quiet", "--include=" + strings.Join(image.Packages, ",")}
	for _, folder := range []string{"doc", "info", "locale", "man"} {
		arguments = append(arguments, "--dpkgopt=path-exclude=/usr/share/"+folder+"/*")
	}
	if image.Account != "" {
		uid, gid, _ := strings.Cut(image.User, ":")
		arguments = append(arguments, fmt.Sprintf(
			`--essential-hook=echo %[1]s:x:%[2]s:%[3]s::/var/lib/%[1]s:/bin/sh >>"$1/etc/passwd"; echo %[1]s:x:%[3]s: >>"$1/etc/group"`,
			image.Account, uid, gid))
	}
	arguments = append(append(arguments, image.Suite, full), sources...)
	command := interruptible(exec.CommandContext(ctx, "mmdebstrap", arguments...))
	command.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=0", "LC_ALL=C.UTF-8")
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, &output
	if err := command.Run(); err != nil {
		lines := strings.Split(strings.TrimSpace(output.String()), "\n")
		return nil, fmt.Errorf("mmdebstrap: %w\n%s", err, strings.Join(lines[max(0, len(lines)-15):], "\n"))
	}
	extra, err := fileEntries(b.root, image.Files)
	if err != nil {
		return nil, err
	}
	if err := thin(full, target, image.Remove, extra); err != nil {
		return nil, err
	}
	return fileLayer(target)
}

// need installs a Debian package unless its program is there.
func (b *builder) need(ctx context.Context, program, pkg string) error {
	if _, err := exec.LookPath(program); err == nil {
		return nil
	}
	command := interruptible(exec.CommandContext(ctx, filepath.Join(b.root, "hack/ensure-packages"), pkg))
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%s is missing: %w\n%s", program, err, strings.TrimSpace(string(output)))
	}
	return nil
}

// interruptible lets a program that is to end clean up first.
func interruptible(command *exec.Cmd) *exec.Cmd {
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
	command.WaitDelay = 20 * time.Second
	return command
}

// thin copies a tar without what matches remove, with all times at the epoch, and adds extra.
func thin(from, to string, remove []string, extra []entry) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.Create(to)
	if err != nil {
		return err
	}
	defer target.Close()
	w := tar.NewWriter(target)

	replaced := map[string]bool{}
	for _, e := range extra {
		replaced[strings.Trim(path.Clean(e.path), "/")] = true
	}
	present := map[string]bool{}
	for reader := tar.NewReader(source); ; {
		header, err := reader.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		name := strings.Trim(path.Clean("/"+header.Name), "/")
		// Devices are made by whoever starts the container.
		if name == "" || replaced[name] || strings.HasPrefix(name, "dev/") || removed(name, remove) {
			continue
		}
		if header.Typeflag == tar.TypeLink {
			link := strings.Trim(path.Clean("/"+header.Linkname), "/")
			if !present[link] {
				return fmt.Errorf("/%s is a hard link to /%s, which is removed: remove both", name, link)
			}
			header.Linkname = link
		}
		present[name] = true
		header.Name = name
		if header.Typeflag == tar.TypeDir {
			header.Name += "/"
		}
		header.ModTime, header.Format, header.Uname, header.Gname = epoch, tar.FormatPAX, "", ""
		for key := range header.PAXRecords {
			if key != "SCHILY.xattr.security.capability" {
				delete(header.PAXRecords, key)
			}
		}
		if err := w.WriteHeader(header); err != nil {
			return err
		}
		if _, err := io.Copy(w, reader); err != nil {
			return err
		}
	}
	if err := writeEntries(w, extra, func(name string) bool { return present[name] }); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return target.Close()
}

// removed says whether a pattern matches the path or a folder that it is in.
func removed(name string, patterns []string) bool {
	for at := name; at != "."; at = path.Dir(at) {
		for _, pattern := range patterns {
			if match, _ := path.Match(strings.TrimPrefix(pattern, "/"), at); match {
				return true
			}
		}
	}
	return false
}

// pathOf is where a Debian image's layer is kept while the image is written.
func (b *builder) pathOf(name string) string { return filepath.Join(b.cache(), name+".layer") }
