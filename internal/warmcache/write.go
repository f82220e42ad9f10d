package warmcache

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// writer makes files below a folder. It keeps the folder of the last file open: files come in the order of their paths.
//
// Folders are made and opened by os.Root. A file is then made by its last name alone in the open folder: with O_EXCL, and so of
// nothing that is there, and of no link. That is a third of the calls that os.Root itself would need for each file.
type writer struct {
	root  *os.Root
	umask uint32
	mode  fs.FileMode // of folders

	name    string // of the open folder
	current *os.File
}

func (w *writer) close() {
	if w.current != nil {
		w.current.Close()
		w.current = nil
	}
}

func (w *writer) folder(name string) (*os.File, error) {
	if w.current != nil && w.name == name {
		return w.current, nil
	}
	if name != "." {
		if err := w.makeFolders(name); err != nil {
			return nil, err
		}
	}
	opened, err := w.root.Open(name)
	if err != nil {
		return nil, err
	}
	w.close()
	w.name, w.current = name, opened
	return opened, nil
}

// makeFolders makes a folder and those above, with the mode that was asked for, whatever the umask is.
func (w *writer) makeFolders(name string) error {
	for i := 0; i <= len(name); i++ {
		if i < len(name) && name[i] != '/' {
			continue
		}
		err := w.root.Mkdir(name[:i], w.mode)
		if err == nil && uint32(w.mode)&w.umask != 0 {
			err = w.root.Chmod(name[:i], w.mode)
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

func (w *writer) write(f *file, content []byte) error {
	if f.Mode&^0o777 != 0 {
		return fmt.Errorf("%q has the mode %o", f.Path, f.Mode)
	}
	folder, err := w.folder(path.Dir(f.Path))
	if err != nil {
		return err
	}
	if err := create(int(folder.Fd()), path.Base(f.Path), content, f, f.Mode&w.umask != 0); err != nil { //nolint:gosec // It is a file descriptor.
		return &fs.PathError{Op: "write", Path: f.Path, Err: err}
	}
	return nil
}

// create makes a file in an open folder; name is no path.
func create(folder int, name string, content []byte, f *file, chmod bool) (err error) {
	if name == "" || name == "." || name == ".." || strings.Contains(name, "/") {
		return fs.ErrInvalid
	}
	fd, err := again(func() (int, error) {
		return unix.Openat(folder, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, f.Mode)
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	for len(content) > 0 {
		n, err := again(func() (int, error) { return unix.Write(fd, content) })
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrShortWrite
		}
		content = content[n:]
	}
	if chmod {
		if err := unix.Fchmod(fd, f.Mode); err != nil {
			return err
		}
	}
	// The same time as then, so that the next save finds it unchanged.
	at := unix.NsecToTimespec(f.Modified)
	return unix.UtimesNanoAt(folder, name, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW)
}

// again calls what signals may interrupt.
func again(do func() (int, error)) (int, error) {
	for {
		if n, err := do(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// umask reads the process' own, which there is no call for but one that changes it for a moment, for all threads.
func umask() uint32 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0o777 // Every mode is set then.
	}
	for line := range strings.Lines(string(status)) {
		var mask uint32
		if _, err := fmt.Sscanf(line, "Umask: %o", &mask); err == nil {
			return mask
		}
	}
	return 0o777
}
