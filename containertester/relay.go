package tester

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// relaySource is the program of the relay, a file of its own.
//
//go:embed relay/main.go
var relaySource []byte

// relay is a container where mocks have their ports when containers cannot reach this process: on an engine
// of another machine, in a virtual machine, or without root. It ends, and is removed, with this process.
type relay struct {
	id, token, control string
	// hold is open as long as this process lives.
	hold net.Conn
}

// startRelay starts it from an image that is made once for each version of it, with the Go that runs the tests.
func startRelay(ctx context.Context, e *engine) (*relay, error) {
	sum := sha256.Sum256(relaySource)
	image := "localhost/shopset-tester-relay:" + hex.EncodeToString(sum[:6])
	if err := e.call(ctx, http.MethodGet, "/images/"+image+"/json", nil, nil, nil); isNotFound(err) {
		if err := e.buildRelay(ctx, image); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	r := &relay{token: rand.Text()}
	var err error
	r.id, err = e.create(ctx, map[string]any{
		"Image": image, "Env": []string{"RELAY_TOKEN=" + r.token},
		"ExposedPorts": map[string]any{"1/tcp": map[string]any{}}, "Labels": map[string]string{ownerLabel: owner()},
		"HostConfig": map[string]any{"AutoRemove": true, "PortBindings": e.publish([]int{1}), "NetworkMode": e.network},
	})
	if err != nil {
		return nil, err
	}
	if err := e.call(ctx, http.MethodPost, "/containers/"+r.id+"/start", nil, nil, nil); err != nil {
		return nil, err
	}
	s, err := inspect(ctx, e, r.id)
	if err != nil {
		return nil, err
	}
	r.control = s.published(e.published, 1)
	for name := range s.NetworkSettings.Networks { // There is one, which Podman calls otherwise than it is asked for.
		e.network = name
	}
	if err := eventually(ctx, 10*time.Second, func(ctx context.Context) (err error) {
		r.hold, _, err = r.ask(ctx, "hold", 0)
		return err
	}); err != nil {
		return nil, err
	}
	return r, nil
}

// buildRelay makes an image of the relay alone.
func (e *engine) buildRelay(ctx context.Context, image string) error {
	folder, err := os.MkdirTemp("", "tester-relay-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	source, binary := filepath.Join(folder, "main.go"), filepath.Join(folder, "relay")
	if err := os.WriteFile(source, relaySource, 0o600); err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", binary, source)
	build.Dir = folder
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+e.architecture, "GOFLAGS=", "GOWORK=off")
	if output, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w: %s", err, bytes.TrimSpace(output))
	}
	program, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	layer, err := archiveOf(map[string]File{"/relay": {Content: string(program), Mode: 0o755}})
	if err != nil {
		return err
	}
	content := layer.String()
	sum := sha256.Sum256([]byte(content))
	archive, err := archiveOf(map[string]File{
		"/layer.tar":     {Content: content},
		"/config.json":   {Content: fmt.Sprintf(`{"architecture":%q,"os":"linux","config":{"Entrypoint":["/relay"]},"rootfs":{"type":"layers","diff_ids":["sha256:%x"]}}`, e.architecture, sum)},
		"/manifest.json": {Content: fmt.Sprintf(`[{"Config":"config.json","RepoTags":[%q],"Layers":["layer.tar"]}]`, image)},
	})
	if err != nil {
		return err
	}
	return e.call(ctx, http.MethodPost, "/images/load", url.Values{"quiet": {"1"}}, archive, nil)
}

// ask opens a control connection; answer is its first line, but for "take", which has none.
func (r *relay) ask(ctx context.Context, verb string, number int) (conn net.Conn, answer *bufio.Reader, err error) {
	conn, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", r.control)
	if err != nil {
		return nil, nil, err
	}
	if _, err := fmt.Fprintf(conn, "%s %s %d\n", r.token, verb, number); err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	if verb == "take" {
		return conn, nil, nil
	}
	answer = bufio.NewReader(conn)
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := answer.Peek(1); err != nil {
		_ = conn.Close()
		return nil, nil, fmt.Errorf("the relay does not answer: %w", err)
	}
	_ = conn.SetReadDeadline(time.Time{})
	return conn, answer, nil
}

// listen opens a port of the relay, a free one for 0.
func (r *relay) listen(port int) (net.Listener, error) {
	conn, answer, err := r.ask(context.Background(), "listen", port)
	if err != nil {
		return nil, err
	}
	line, err := answer.ReadString('\n')
	if err == nil {
		port, err = strconv.Atoi(strings.TrimSpace(line))
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("the relay cannot listen: %s", strings.TrimSpace(line))
	}
	return &relayed{relay: r, control: conn, numbers: answer, port: port, ended: make(chan struct{})}, nil
}

// relayed is a listener whose port is the relay's.
type relayed struct {
	relay   *relay
	control net.Conn
	port    int

	// ended is closed when the relay has no more to say, which Accept reads all the time.
	ended chan struct{}
	once  sync.Once

	mu      sync.Mutex
	numbers *bufio.Reader
}

func (l *relayed) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		line, err := l.numbers.ReadString('\n')
		if err != nil {
			l.once.Do(func() { close(l.ended) })
			return nil, net.ErrClosed
		}
		number, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			return nil, fmt.Errorf("the relay says %q", line)
		}
		if conn, _, err := l.relay.ask(context.Background(), "take", number); err == nil {
			return conn, nil
		}
	}
}

// Close returns when the port is closed, too.
func (l *relayed) Close() error {
	if tcp, ok := l.control.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
	select {
	case <-l.ended:
	case <-time.After(5 * time.Second): // The relay is gone.
	}
	return l.control.Close()
}

func (l *relayed) Addr() net.Addr { return &net.TCPAddr{Port: l.port} }

// archiveOf is a tar archive of files by absolute path.
func archiveOf(files map[string]File) (*bytes.Buffer, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, name := range sortedKeys(files) {
		file := files[name]
		if file.Mode == 0 {
			file.Mode = 0o644
		}
		header := &tar.Header{Name: strings.TrimPrefix(filepath.Clean(name), "/"), Mode: file.Mode, Size: int64(len(file.Content)), Uid: file.UID, Gid: file.GID, ModTime: time.Now()}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write([]byte(file.Content)); err != nil {
			return nil, err
		}
	}
	return &archive, w.Close()
}
