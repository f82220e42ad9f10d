package tester

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

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

// engine is the container engine, and how it and this process reach each other.
type engine struct {
	client *http.Client
	// version is the API's, as the first part of each path.
	version string
	// architecture of its machine, as Go names it.
	architecture string
	// published is where published ports answer; empty when containers are reached at their own addresses.
	published string
	// network that containers join when their test names none.
	network string
	// listenAt is where mocks listen, unless a relay does.
	listenAt string
	// mocks is the name or address at which containers find the mocks.
	mocks string
	// standIn is the container whose address that name means: the test's own, or the relay; empty for none.
	standIn string
	relay   *relay
}

var theEngine = sync.OnceValues(connect)

// connect finds the engine, how it and this process reach each other, and removes what killed tests left.
func connect() (*engine, error) {
	e, host, err := dialEngine()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var version struct{ APIVersion, MinAPIVersion, Arch string }
	if err := e.call(ctx, http.MethodGet, "/version", nil, nil, &version); err != nil {
		return nil, fmt.Errorf("container engine: %w", err)
	}
	e.version, e.architecture = "/v"+chooseVersion(version.APIVersion, version.MinAPIVersion), version.Arch
	e.sweep(ctx) // First: an engine may take its bridge away with the last container in it.
	if err := e.orient(ctx, host); err != nil {
		return nil, fmt.Errorf("container engine: %w", err)
	}
	return e, nil
}

// orient finds out where containers and this process find each other.
func (e *engine) orient(ctx context.Context, host string) error {
	gateway, err := e.bridge(ctx)
	switch {
	case err != nil:
		return err
	// The usual gateway is this machine's own on nearly every machine with Docker, whatever engine is asked.
	case isOwnAddress(gateway) && isHere(host) && !e.isRootless(ctx):
		e.listenAt, e.mocks = gateway, gateway
	case e.findOwnContainer(ctx):
		e.listenAt, e.mocks = "", mocksName
	case host == "" && runtime.GOOS != "linux":
		// The engine's virtual machine leads this name to the loopback of this machine.
		e.published, e.listenAt, e.mocks = "127.0.0.1", "127.0.0.1", "host.docker.internal"
	default:
		e.published, e.mocks = cmp.Or(host, "127.0.0.1"), mocksName
		if e.relay, err = startRelay(ctx, e); err != nil {
			return fmt.Errorf("start the relay that leads containers to the mocks: %w", err)
		}
		e.standIn = e.relay.id
	}
	return nil
}

// isHere says whether the engine's host is this machine.
func isHere(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || host == "localhost" || ip != nil && ip.IsLoopback()
}

// isRootless says whether the engine's networks are in a namespace of their own.
func (e *engine) isRootless(ctx context.Context) bool {
	var info struct{ SecurityOptions []string }
	err := e.call(ctx, http.MethodGet, "/info", nil, nil, &info)
	return err == nil && slices.ContainsFunc(info.SecurityOptions, func(option string) bool { return strings.Contains(option, "rootless") })
}

// bridge asks for the usual network, which Podman calls otherwise, and returns the engine's address in it.
func (e *engine) bridge(ctx context.Context) (gateway string, err error) {
	var answer struct {
		IPAM struct {
			Config []struct{ Gateway, Subnet string }
		}
	}
	var failures []error
	for _, e.network = range []string{"bridge", "podman"} {
		if err = e.call(ctx, http.MethodGet, "/networks/"+e.network, nil, nil, &answer); err == nil {
			break
		}
		failures = append(failures, err)
		err = errors.Join(failures...)
	}
	for _, config := range answer.IPAM.Config {
		gateway := config.Gateway
		if subnet, err := netip.ParsePrefix(config.Subnet); gateway == "" && err == nil {
			gateway = subnet.Masked().Addr().Next().String() // What the engine takes when nobody says another.
		}
		if isOwnAddress(gateway) {
			return gateway, nil
		}
	}
	return "", err
}

// dialEngine speaks to DOCKER_HOST, or to the first usual socket that is there. host is that of an engine
// on another machine.
func dialEngine() (e *engine, host string, err error) {
	network, address := "unix", ""
	home, _ := os.UserHomeDir()
	sockets := []string{"/var/run/docker.sock", filepath.Join(home, ".docker/run/docker.sock"), "/run/podman/podman.sock"}
	if runtime := os.Getenv("XDG_RUNTIME_DIR"); runtime != "" {
		sockets = append(sockets, filepath.Join(runtime, "docker.sock"), filepath.Join(runtime, "podman/podman.sock"))
	}
	if named := os.Getenv("DOCKER_HOST"); named != "" {
		var ok bool
		network, address, ok = strings.Cut(named, "://")
		if !ok || network != "unix" && network != "tcp" {
			return nil, "", fmt.Errorf("DOCKER_HOST=%q: want unix://PATH or tcp://HOST:PORT", named)
		}
	} else if at := slices.IndexFunc(sockets, takesConnections); at >= 0 {
		address = sockets[at]
	} else {
		return nil, "", errors.New("no container engine: start Docker or Podman, or set DOCKER_HOST")
	}
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, network, address)
	}
	if network == "tcp" {
		if host, _, err = net.SplitHostPort(address); err != nil {
			return nil, "", fmt.Errorf("DOCKER_HOST=tcp://%s: %w", address, err)
		}
		if os.Getenv("DOCKER_TLS_VERIFY") != "" {
			config, err := engineTLS(cmp.Or(os.Getenv("DOCKER_CERT_PATH"), filepath.Join(home, ".docker")), host)
			if err != nil {
				return nil, "", fmt.Errorf("DOCKER_TLS_VERIFY is set: %w", err)
			}
			secure := &tls.Dialer{NetDialer: dialer, Config: config}
			dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
				return secure.DialContext(ctx, network, address)
			}
		}
	}
	return &engine{client: &http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 16}}}, host, nil
}

// takesConnections says whether somebody serves a socket whom this user may ask.
func takesConnections(socket string) bool {
	conn, err := net.DialTimeout("unix", socket, time.Second)
	if err == nil {
		_ = conn.Close()
	}
	return err == nil
}

// engineTLS reads ca.pem, cert.pem and key.pem, as Docker's own client does.
func engineTLS(folder, host string) (*tls.Config, error) {
	authority, err := os.ReadFile(filepath.Join(folder, "ca.pem"))
	if err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(folder, "cert.pem"), filepath.Join(folder, "key.pem"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, ServerName: host}, nil
}

// chooseVersion takes 1.41, of Docker 20.10, as long as the engine speaks it: later engines give up old ones.
func chooseVersion(most, least string) string {
	const ours = 41
	minor := func(version string) int {
		_, number, _ := strings.Cut(version, ".")
		n, _ := strconv.Atoi(number) // None is zero, which any is above.
		return n
	}
	switch {
	case minor(least) > ours:
		return least
	case most != "" && minor(most) < ours:
		return most
	}
	return "1.41"
}

func isOwnAddress(address string) bool {
	own, err := net.InterfaceAddrs()
	if err != nil || address == "" {
		return false
	}
	return slices.ContainsFunc(own, func(a net.Addr) bool {
		network, ok := a.(*net.IPNet)
		return ok && network.IP.String() == address
	})
}

// findOwnContainer looks whether the test runs in a container of this engine; others then join its network.
func (e *engine) findOwnContainer(ctx context.Context) bool {
	name, err := os.Hostname() // The engine gives a container its ID as name.
	if err != nil {
		return false
	}
	var s state
	if err := e.call(ctx, http.MethodGet, "/containers/"+url.PathEscape(name)+"/json", nil, nil, &s); err != nil {
		return e.findOwnAddress(ctx)
	}
	for _, network := range slices.Sorted(maps.Keys(s.NetworkSettings.Networks)) {
		if isOwnAddress(s.NetworkSettings.Networks[network].IPAddress) {
			e.network, e.standIn = network, name
			return true
		}
	}
	return false
}

// findOwnAddress finds the test's container by its address and hardware address: CI may have given it another host name.
func (e *engine) findOwnAddress(ctx context.Context) bool {
	var listed []struct {
		ID              string `json:"Id"`
		NetworkSettings struct {
			Networks map[string]struct{ IPAddress, MacAddress string }
		}
	}
	interfaces, err := net.Interfaces()
	if err != nil || e.call(ctx, http.MethodGet, "/containers/json", nil, nil, &listed) != nil {
		return false
	}
	for _, container := range listed {
		for name, network := range container.NetworkSettings.Networks {
			same := func(i net.Interface) bool {
				return network.MacAddress != "" && i.HardwareAddr.String() == network.MacAddress
			}
			if isOwnAddress(network.IPAddress) && slices.ContainsFunc(interfaces, same) {
				e.network, e.standIn = name, container.ID
				return true
			}
		}
	}
	return false
}

// mocksName is what containers call the stand-in.
const mocksName = "tester-mocks"

// extraHosts tells a container in a network where the mocks are.
func (e *engine) extraHosts(ctx context.Context, network string) ([]string, error) {
	if e.standIn == "" {
		return nil, nil
	}
	s, err := inspect(ctx, e, e.standIn)
	if err != nil {
		return nil, err
	}
	address := s.NetworkSettings.Networks[network].IPAddress
	if address == "" {
		return nil, fmt.Errorf("the container that stands for them is not in network %s", network)
	}
	return []string{mocksName + ":" + address}, nil
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
	request, err := http.NewRequestWithContext(ctx, method, "http://engine"+e.version+path+"?"+query.Encode(), body)
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

// create makes a container and returns its ID.
func (e *engine) create(ctx context.Context, config map[string]any) (string, error) {
	var made struct {
		ID string `json:"Id"`
	}
	err := e.call(ctx, http.MethodPost, "/containers/create", nil, config, &made)
	return made.ID, err
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
			_, err := io.Copy(io.Discard, stream) // To its end: who asks may wait for that.
			return text.String(), err
		}
	}
}
