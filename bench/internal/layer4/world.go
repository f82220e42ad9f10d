package layer4

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/shopset/shopset/bench/internal/process"
	"github.com/shopset/shopset/internal/routetable"
)

// FreePort is one that nobody listens on.
func FreePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

// Await waits until somebody listens on a port.
func Await(ctx context.Context, port int) error {
	return process.Until(ctx, 20*time.Millisecond, func() (bool, error) {
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
		if err != nil {
			return false, nil //nolint:nilerr // It is not there yet.
		}
		return true, conn.Close()
	})
}

// Router builds shopset-router into a folder, once, and returns its path.
func Router(folder string) (string, error) {
	path := filepath.Join(folder, "shopset-router")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	build := exec.Command("go", "build", "-o", path, "./cmd/shopset-router") //nolint:noctx,gosec // It takes seconds.
	build.Dir = ".."                                                         // The module of the repository: its dependencies are none of this one's.
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, output)
	}
	return path, nil
}

// Tables publishes routing tables in a folder: the file table, and keys.pem.
type Tables struct {
	Table  routetable.Table
	folder string
	key    ed25519.PrivateKey
}

// NewTables makes a table of active cells of equal weight; endpoints are the ports of each on this machine.
func NewTables(folder string, endpoints [][]int) (*Tables, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	keys, err := routetable.MarshalPublicKeys(public)
	if err != nil {
		return nil, err
	}
	t := &Tables{folder: folder, key: private, Table: routetable.Table{Format: routetable.Format, Fleet: "bench/bench", Epoch: 1, Created: time.Now(), MaxFailover: 50}}
	for i, ports := range endpoints {
		cell := routetable.Cell{Name: fmt.Sprintf("cell%d", i), State: routetable.Active, Weight: 100}
		for _, port := range ports {
			cell.Endpoints.HTTPS = append(cell.Endpoints.HTTPS, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))) //nolint:gosec // It is a port.
		}
		t.Table.Cells = append(t.Table.Cells, cell)
	}
	if err := os.WriteFile(filepath.Join(folder, "keys.pem"), keys, 0o600); err != nil {
		return nil, err
	}
	return t, t.Publish()
}

// Publish writes the next version of the table.
func (t *Tables) Publish() error {
	t.Table.Version++
	envelope, err := routetable.Sign(&t.Table, t.key)
	if err != nil {
		return err
	}
	path := filepath.Join(t.folder, "table")
	if err := os.WriteFile(path+".tmp", envelope, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}
