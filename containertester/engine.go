package tester

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// apiVersion is of Docker 20.10; later engines and Podman speak it, too.
const apiVersion = "/v1.41"

// TB is what the package needs of a test; *testing.T and *testing.B have it.
type TB interface {
	Helper()
	Name() string
	Cleanup(func())
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Failed() bool
	Context() context.Context
}

// engine is the container engine.
type engine struct {
	client *http.Client
	// gateway is the bridge's address on this machine; empty when the engine is in a virtual machine.
	gateway string
	// address is where containers reach this process.
	address string
}

var theEngine = sync.OnceValues(connect)

// connect finds the engine, how it and this process reach each other, and removes what killed tests left.
func connect() (*engine, error) {
	network, address, err := engineAddress()
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	e := &engine{client: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, address)
		},
		MaxIdleConnsPerHost: 16,
	}}}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var bridge struct {
		IPAM struct {
			Config []struct{ Gateway, Subnet string }
		}
	}
	if err := e.call(ctx, http.MethodGet, "/networks/bridge", nil, nil, &bridge); err != nil {
		// Podman calls it otherwise.
		if errPodman := e.call(ctx, http.MethodGet, "/networks/podman", nil, nil, &bridge); errPodman != nil {
			return nil, fmt.Errorf("container engine at %s: %w", address, err)
		}
	}
	for _, config := range bridge.IPAM.Config {
		gateway := config.Gateway
		if subnet, err := netip.ParsePrefix(config.Subnet); gateway == "" && err == nil {
			gateway = subnet.Masked().Addr().Next().String() // What the engine takes when nobody says another.
		}
		if e.gateway == "" && isOwnAddress(gateway) {
			e.gateway = gateway
		}
	}
	e.address = e.gateway
	if e.address == "" {
		if own := ownContainerAddress(); own != "" {
			e.gateway, e.address = own, own // The bridge is this container's own network.
		} else {
			e.address = "host.docker.internal"
		}
	}
	e.sweep(ctx)
	return e, nil
}

// engineAddress is DOCKER_HOST, or the first usual socket that is there.
func engineAddress() (network, address string, err error) {
	if host := os.Getenv("DOCKER_HOST"); host != "" {
		scheme, rest, ok := strings.Cut(host, "://")
		if ok && (scheme == "unix" || scheme == "tcp") {
			return scheme, rest, nil
		}
		return "", "", fmt.Errorf("DOCKER_HOST=%q: want unix://PATH or tcp://HOST:PORT", host)
	}
	home, _ := os.UserHomeDir()
	for _, path := range []string{
		"/var/run/docker.sock", filepath.Join(home, ".docker/run/docker.sock"),
		filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "podman/podman.sock"), "/run/podman/podman.sock",
	} {
		if _, err := os.Stat(path); err == nil {
			return "unix", path, nil
		}
	}
	return "", "", errors.New("no container engine: start Docker or Podman, or set DOCKER_HOST")
}

func isOwnAddress(address string) bool {
	own, err := net.InterfaceAddrs()
	if err != nil || address == "" {
		return false
	}
	for _, a := range own {
		if network, ok := a.(*net.IPNet); ok && network.IP.String() == address {
			return true
		}
	}
	return false
}

// ownContainerAddress is this container's address, when the test runs in one.
func ownContainerAddress() string {
	if _, err := os.Stat("/.dockerenv"); err != nil {
		return ""
	}
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	addresses, err := (&net.Resolver{}).LookupHost(context.Background(), name)
	if err != nil || len(addresses) == 0 || net.ParseIP(addresses[0]).IsLoopback() {
		return ""
	}
	return addresses[0]
}

// engineError is an answer of the engine that is no success.
type engineError struct {
	status  int
	message string
}

func (e *engineError) Error() string { return fmt.Sprintf("%s (status %d)", e.message, e.status) }

func isNotFound(err error) bool {
	var answer *engineError
	return errors.As(err, &answer) && answer.status == http.StatusNotFound
}

// call sends in as JSON (an io.Reader as it is) and reads the answer into out.
func (e *engine) call(ctx context.Context, method, path string, query url.Values, in, out any) error {
	response, err := e.send(ctx, method, path, query, in)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, response.Body)
		return err
	}
	return json.NewDecoder(response.Body).Decode(out)
}

// send returns a successful answer; its body must be closed.
func (e *engine) send(ctx context.Context, method, path string, query url.Values, in any) (*http.Response, error) {
	var body io.Reader
	contentType := "application/json"
	switch v := in.(type) {
	case nil:
	case io.Reader:
		body, contentType = v, "application/x-tar"
	default:
		content, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(content)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://engine"+apiVersion+path+"?"+query.Encode(), body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := e.client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode < 300 || response.StatusCode == http.StatusNotModified {
		return response, nil
	}
	defer response.Body.Close()
	answer := struct{ Message string }{}
	content, _ := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if json.Unmarshal(content, &answer) != nil || answer.Message == "" {
		answer.Message = strings.TrimSpace(string(content))
	}
	return nil, &engineError{response.StatusCode, answer.Message}
}

// demultiplex joins the engine's stream of frames (8 bytes of header: stream, 0, 0, 0, length) into one text.
func demultiplex(stream io.Reader, limit int64) (string, error) {
	var text bytes.Buffer
	header := make([]byte, 8)
	for {
		if _, err := io.ReadFull(stream, header); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return text.String(), err
		}
		n := int64(binary.BigEndian.Uint32(header[4:]))
		if _, err := io.CopyN(&text, stream, n); err != nil {
			return text.String(), err
		}
		if int64(text.Len()) > limit {
			return text.String(), nil
		}
	}
}
