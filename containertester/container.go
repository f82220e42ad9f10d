package tester

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// ContainerConfig says what to start.
type ContainerConfig struct {
	// Image that is there already, by any of its names.
	Image string
	// Environment is added to the image's own. The value Unset takes a variable out of the image's.
	Environment map[string]string
	// Entrypoint and Command replace the image's, unless nil.
	Entrypoint, Command []string
	// User replaces the image's.
	User string
	// Files are put into the container before it starts, by absolute path. With ReadOnly their folders can be
	// written to, and none can be in /.
	Files map[string]File
	// Mounts are folders or files of this machine, by absolute path in the container. The engine must be on it.
	Mounts map[string]string
	// Tmpfs are folders in memory, with options after a colon if there are any: /run/nginx:mode=1777.
	Tmpfs []string
	// ReadOnly makes the root file system read-only.
	ReadOnly bool
	// Memory in bytes and CPUs limit it; zero is no limit.
	Memory int64
	CPUs   float64
	// Port that requests go to; zero is 80, 8080, 443, 8443, or the lowest that the image exposes, the first
	// that is there.
	Port int
	// Ports are others that tests use and the image does not expose.
	Ports []int
	// Network to join, with Aliases as further names in it.
	Network *Network `json:"-"`
	Aliases []string
	// Ready says when it is; nil is ReadyPort(Port), or at once when there is no port.
	Ready Ready `json:"-"`
	// StartTimeout is how long it may take; zero is a minute.
	StartTimeout time.Duration
}

// File of a container.
type File struct {
	Content string
	// Mode; zero is 0644.
	Mode int64
	// UID and GID own it.
	UID, GID int
}

// Container runs until Close, or the end of its test.
type Container struct {
	config ContainerConfig
	engine *engine
	image  image
	id     string
	port   int
	mocks  func() []recorder
	mayEnd bool
	binds  []string

	// waited is since when the container is waited for.
	waited time.Time
	// logSeen is how much of the log is of before the last restart.
	logSeen atomic.Int64

	mu        sync.Mutex
	addresses map[int]string
	closed    bool
}

// image is what the engine knows of one.
type image struct {
	Config struct {
		Env          []string
		ExposedPorts map[string]struct{}
		Entrypoint   []string
		Cmd          []string
	}
}

// StartContainer starts an image and waits until it is ready. It ends the test when that fails, with the
// end of the container's log.
func StartContainer(t TB, config ContainerConfig) *Container {
	t.Helper()
	c, err := startContainer(t.Context(), t, config)
	if err != nil {
		t.Fatalf("start a container of %s: %v", config.Image, err)
	}
	return c
}

func startContainer(ctx context.Context, t TB, config ContainerConfig) (*Container, error) {
	e, err := theEngine()
	if err != nil {
		return nil, err
	}
	if config.StartTimeout == 0 {
		config.StartTimeout = time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, config.StartTimeout)
	defer cancel()
	c := &Container{config: config, engine: e, addresses: map[int]string{}, mocks: func() []recorder { return mocksOf(t) }}
	if err := e.call(ctx, http.MethodGet, "/images/"+url.PathEscape(config.Image)+"/json", nil, nil, &c.image); err != nil {
		return nil, fmt.Errorf("look at the image: %w", err)
	}
	c.port = c.choosePort()
	if config.Ready == nil && c.port > 0 {
		c.config.Ready = ReadyPort(c.port)
	}
	for name := range config.Files {
		if !path.IsAbs(name) {
			return nil, fmt.Errorf("file %s: the path must be absolute", name)
		}
		for _, folder := range sortedKeys(tmpfs(config.Tmpfs)) {
			if strings.HasPrefix(path.Clean(name)+"/", path.Clean(folder)+"/") {
				return nil, fmt.Errorf("file %s: %s is in memory, and empty when the container starts", name, folder)
			}
		}
		if config.ReadOnly && path.Dir(path.Clean(name)) == "/" {
			return nil, fmt.Errorf("file %s: with ReadOnly it must be in a folder", name)
		}
	}
	for at, from := range config.Mounts {
		absolute, err := filepath.Abs(from) // Else the engine takes it for the name of a volume.
		if err == nil {
			_, err = os.Stat(absolute)
		}
		if err != nil {
			return nil, fmt.Errorf("mount at %s: %w", at, err)
		}
		c.binds = append(c.binds, absolute+":"+at)
	}
	slices.Sort(c.binds)
	creation, err := c.creation(ctx)
	if err != nil {
		return nil, err
	}
	// What the engine has begun when the test is over must have an owner still.
	whole, done := context.WithTimeout(context.WithoutCancel(ctx), config.StartTimeout)
	defer done()
	if c.id, err = e.create(whole, creation); err != nil {
		return nil, fmt.Errorf("create: %w", err)
	}
	// Before anything that may end the test, such as a Ready of its own.
	t.Cleanup(func() { c.Close(t) })
	if err := c.putFiles(ctx); err != nil {
		return c, err
	}
	return c, c.start(ctx)
}

// start starts it, a few times when somebody else takes its ports just then, and waits until it is ready.
func (c *Container) start(ctx context.Context) error {
	var err error
	for range 5 {
		err = c.engine.call(ctx, http.MethodPost, "/containers/"+c.id+"/start", nil, nil, nil)
		if err == nil || !strings.Contains(err.Error(), "port is already allocated") && !strings.Contains(err.Error(), "address already in use") {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	return c.awaitReady(ctx)
}

// usualPorts are tried first.
var usualPorts = []int{80, 8080, 443, 8443}

func (c *Container) choosePort() int {
	if c.config.Port > 0 {
		return c.config.Port
	}
	exposed := c.exposed()
	for _, port := range usualPorts {
		if slices.Contains(exposed, port) {
			return port
		}
	}
	if len(exposed) > 0 {
		return exposed[0]
	}
	return 0
}

// exposed are the TCP ports of the image and the configuration, sorted.
func (c *Container) exposed() []int {
	ports := slices.Clone(c.config.Ports)
	if c.config.Port > 0 {
		ports = append(ports, c.config.Port)
	}
	for name := range c.image.Config.ExposedPorts {
		number, protocol, _ := strings.Cut(name, "/")
		if n, err := strconv.Atoi(number); err == nil && protocol != "udp" {
			ports = append(ports, n)
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// creation is the body of the engine's call.
func (c *Container) creation(ctx context.Context) (map[string]any, error) {
	config, network := &c.config, c.engine.network
	if config.Network != nil {
		network = config.Network.name
	}
	hosts, err := c.engine.extraHosts(ctx, network)
	if err != nil {
		return nil, fmt.Errorf("find the mocks: %w", err)
	}
	exposed := map[string]struct{}{}
	for _, port := range c.exposed() {
		exposed[strconv.Itoa(port)+"/tcp"] = struct{}{}
	}
	host := map[string]any{
		"ReadonlyRootfs": config.ReadOnly, "Memory": config.Memory, "NanoCpus": int64(config.CPUs * 1e9),
		"PortBindings": c.engine.publish(c.exposed()),
		"Binds":        c.binds, "Tmpfs": tmpfs(config.Tmpfs),
		"ExtraHosts": hosts, "NetworkMode": network,
	}
	result := map[string]any{
		"Image": config.Image, "User": config.User, "Env": environmentLines(config.Environment),
		"ExposedPorts": exposed, "HostConfig": host, "Labels": map[string]string{ownerLabel: owner()},
	}
	if config.Entrypoint != nil {
		result["Entrypoint"] = config.Entrypoint
	}
	if config.Command != nil {
		result["Cmd"] = config.Command
	}
	if config.ReadOnly {
		volumes := map[string]any{}
		for folder := range c.fileFolders() {
			volumes[folder] = struct{}{}
		}
		result["Volumes"] = volumes
	}
	if config.Network != nil {
		result["NetworkingConfig"] = map[string]any{"EndpointsConfig": map[string]any{
			network: map[string]any{"Aliases": config.Aliases},
		}}
	}
	return result, nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func environmentLines(environment map[string]string) []string {
	lines := make([]string, 0, len(environment))
	for _, name := range sortedKeys(environment) {
		if environment[name] == Unset {
			lines = append(lines, name) // The engine takes it out of the image's own.
			continue
		}
		lines = append(lines, name+"="+environment[name])
	}
	return lines
}

// publish says at which ports of its machine the engine offers those of a container: at free ones, where containers cannot
// be reached at their own addresses, and on the loopback if that is where they are asked for.
func (e *engine) publish(ports []int) map[string]any {
	bindings := map[string]any{}
	if e.published == "" {
		return bindings
	}
	host := ""
	if isHere(e.published) {
		host = "127.0.0.1"
	}
	for _, port := range ports {
		bindings[strconv.Itoa(port)+"/tcp"] = []map[string]string{{"HostIp": host, "HostPort": ""}}
	}
	return bindings
}

func tmpfs(paths []string) map[string]string {
	result := map[string]string{}
	for _, path := range paths {
		at, options, _ := strings.Cut(path, ":")
		result[at] = options
	}
	return result
}

// putFiles copies files in before the first start.
func (c *Container) putFiles(ctx context.Context) error {
	// One archive for all, unless the engine takes them for volumes alone.
	below := map[string]map[string]File{"/": c.config.Files}
	if c.config.ReadOnly {
		below = c.fileFolders()
	}
	for _, folder := range sortedKeys(below) {
		if len(below[folder]) == 0 {
			continue
		}
		archive, err := archiveOf(below[folder])
		if err != nil {
			return err
		}
		if err := c.engine.call(ctx, http.MethodPut, "/containers/"+c.id+"/archive", url.Values{"path": {folder}}, archive, nil); err != nil {
			return fmt.Errorf("copy files into %s: %w", folder, err)
		}
	}
	return nil
}

// fileFolders are the files by folder. With a read-only root the engine copies files into volumes alone, so
// that each folder becomes one, with what the image has in it.
func (c *Container) fileFolders() map[string]map[string]File {
	folders := map[string]map[string]File{}
	for name, file := range c.config.Files {
		folder, base := path.Split(path.Clean(name))
		if folder != "/" {
			folder = strings.TrimSuffix(folder, "/")
		}
		if folders[folder] == nil {
			folders[folder] = map[string]File{}
		}
		folders[folder]["/"+base] = file
	}
	return folders
}

// Address is where a port of the container can be reached from the test, as host:port. It changes when the
// container is restarted. Empty when the container has no such port.
func (c *Container) Address(port int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.addresses[port]
}

// state is what the engine says of a container.
type state struct {
	State struct {
		Running  bool
		ExitCode int
		Health   *struct{ Status string }
	}
	NetworkSettings struct {
		Networks map[string]struct{ IPAddress string }
		Ports    map[string][]struct {
			HostIP   string `json:"HostIp"`
			HostPort string
		}
	}
}

func inspect(ctx context.Context, e *engine, id string) (state, error) {
	var s state
	err := e.call(ctx, http.MethodGet, "/containers/"+id+"/json", nil, nil, &s)
	return s, err
}

// locate learns the addresses after a start.
func (c *Container) locate(ctx context.Context) error {
	s, err := inspect(ctx, c.engine, c.id)
	if err != nil {
		return err
	}
	c.forgetAddresses()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, port := range c.exposed() {
		if c.engine.published == "" {
			for _, network := range s.NetworkSettings.Networks {
				if network.IPAddress == "" {
					continue // It has ended, and an empty one would be this machine.
				}
				c.addresses[port] = net.JoinHostPort(network.IPAddress, strconv.Itoa(port))
			}
			continue
		}
		c.addresses[port] = s.published(c.engine.published, port)
	}
	return nil
}

// forgetAddresses is for one that does not run: its address may be another's soon.
func (c *Container) forgetAddresses() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.addresses)
}

// published is where a port is published, as host:port, empty when it is not. The engine gives IPv4 and IPv6
// a port each, which differ now and then.
func (s state) published(host string, port int) string {
	for _, binding := range s.NetworkSettings.Ports[strconv.Itoa(port)+"/tcp"] {
		if v6 := strings.Contains(binding.HostIP, ":"); v6 == strings.Contains(host, ":") {
			return net.JoinHostPort(host, binding.HostPort)
		}
	}
	return ""
}

// Close removes the container. To call it again, or after the test has done so, does nothing.
func (c *Container) Close(t TB) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	clear(c.addresses)
	// The context of a test that ends is over already.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	if err := c.engine.remove(ctx, c.id); err != nil {
		t.Errorf("remove the container of %s: %v", c.config.Image, err)
		return
	}
	c.closed = true
}
