package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"github.com/shopset/shopset/bench/internal/process"
	"github.com/shopset/shopset/bench/internal/report"
	"github.com/shopset/shopset/internal/cell"
)

// variant is one way for the bare client to work.
type variant struct {
	concurrency int
	// connections to the API server: one with HTTP/2, else as many as there are workers.
	http2 bool
}

func (v variant) String() string {
	if v.http2 {
		return fmt.Sprintf("%d at a time over HTTP/2", v.concurrency)
	}
	return fmt.Sprintf("%d at a time over HTTP/1.1", v.concurrency)
}

var variants = []variant{{4, true}, {8, true}, {16, true}, {32, true}, {8, false}, {16, false}, {32, false}}

// bareClient applies bodies that were made before, and reads no more of the answers than it must.
type bareClient struct {
	http *http.Client
	host string
}

func newBareClient(config *rest.Config, v variant) (*bareClient, error) {
	config = rest.CopyConfig(config)
	config.NextProtos = []string{"http/1.1"}
	if v.http2 {
		config.NextProtos = []string{"h2"}
	}
	config.DisableCompression = true
	transport, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	return &bareClient{http: transport, host: strings.TrimSuffix(config.Host, "/")}, nil
}

// apply returns the UID of a ShopSet, nothing for other kinds.
func (c *bareClient) apply(ctx context.Context, object rendered, body []byte) (string, error) {
	url := c.host + object.path + "?force=true&fieldValidation=Ignore&fieldManager=" + cell.Manager
	request, err := http.NewRequestWithContext(ctx, http.MethodPatch, url, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	request.Header.Set("Content-Type", "application/apply-patch+yaml")
	request.Header.Set("Accept", "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")
	if object.kind == "ShopSet" {
		request.Header.Set("Accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return "", err
	}
	if response.StatusCode >= 300 {
		return "", fmt.Errorf("PATCH %s: %s: %.300s", object.path, response.Status, answer)
	}
	if object.kind != "ShopSet" {
		return "", nil
	}
	var metadata struct{ Metadata struct{ UID string } }
	err = json.Unmarshal(answer, &metadata)
	return metadata.Metadata.UID, err
}

// applyAll applies systems, several at a time.
func (c *bareClient) applyAll(ctx context.Context, systems []system, concurrency int) error {
	group, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range concurrency {
		group.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(systems) {
					return nil
				}
				uid, err := c.apply(ctx, systems[i].shopSet, systems[i].shopSet.body)
				if err != nil {
					return err
				}
				for _, child := range systems[i].children {
					body := bytes.ReplaceAll(child.body, []byte(noUID), []byte(uid))
					if _, err := c.apply(ctx, child, body); err != nil {
						return err
					}
				}
			}
		})
	}
	return group.Wait()
}

// fastestVariant tries them all on a control plane that is thrown away.
func fastestVariant(ctx context.Context, b *bench) (best variant, err error) {
	cp, err := startControlPlane(ctx, b)
	if err != nil {
		return best, err
	}
	defer func() { err = errors.Join(err, cp.stop()) }()
	if err := warmUp(ctx, b, cp); err != nil {
		return best, err
	}
	template, err := sample(ctx, b, cp)
	if err != nil {
		return best, err
	}
	shortest := time.Duration(0)
	for i, v := range variants {
		space := fmt.Sprintf("variant-%d", i)
		if err := cp.newNamespace(ctx, space); err != nil {
			return best, err
		}
		systems, err := render(template, space, 40)
		if err != nil {
			return best, err
		}
		client, err := newBareClient(cp.config, v)
		if err != nil {
			return best, err
		}
		began := time.Now()
		if err := client.applyAll(ctx, systems, v.concurrency); err != nil {
			return best, err
		}
		took := time.Since(began)
		report.Say("  bare client, %s: %d ShopSets in %.2f s", v, len(systems), took.Seconds())
		if shortest == 0 || took < shortest {
			shortest, best = took, v
		}
	}
	return best, nil
}

// warmUp makes the API server do everything once, the same before every contender: the first object
// of a kind costs as much as dozens later.
func warmUp(ctx context.Context, b *bench, cp *controlPlane) error {
	const space = "warm-up"
	if err := cp.newNamespace(ctx, space); err != nil {
		return err
	}
	template, err := sample(ctx, b, cp)
	if err != nil {
		return err
	}
	systems, err := render(template, space, 3)
	if err != nil {
		return err
	}
	client, err := newBareClient(cp.adminConfig, variant{1, true})
	if err != nil {
		return err
	}
	for _, system := range systems {
		for _, child := range system.children {
			if _, err := client.apply(ctx, child, child.body); err != nil {
				return err
			}
		}
	}
	return nil
}

// measurement of one contender.
type measurement struct {
	wall time.Duration
	// cpu of the API server, etcd and the contender together.
	cpu time.Duration
	// own is what the contender alone used.
	own      time.Duration
	children int
	requests requests
}

func (m measurement) rate() float64 { return float64(m.children) / m.wall.Seconds() }

func (m measurement) String() string {
	return fmt.Sprintf("%d children in %.2f s (%.0f/s), %.1f s of CPU in all, %.1f s of them its own, %d requests", m.children, m.wall.Seconds(), m.rate(), m.cpu.Seconds(), m.own.Seconds(), m.requests.all())
}

// runBare measures the bare client on a control plane of its own.
func runBare(ctx context.Context, b *bench, n int, v variant) (m measurement, err error) {
	cp, err := startControlPlane(ctx, b)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, cp.stop()) }()
	if err := warmUp(ctx, b, cp); err != nil {
		return m, err
	}
	template, err := sample(ctx, b, cp)
	if err != nil {
		return m, err
	}
	systems, err := render(template, namespace, n)
	if err != nil {
		return m, err
	}
	client, err := newBareClient(cp.config, v)
	if err != nil {
		return m, err
	}
	own, err := process.Of(os.Getpid())
	if err != nil {
		return m, err
	}
	server, err := cp.cpu()
	if err != nil {
		return m, err
	}
	began := time.Now()
	if err := client.applyAll(ctx, systems, v.concurrency); err != nil {
		return m, err
	}
	m.wall = time.Since(began)
	return m, m.finish(ctx, cp, n, server, func() (time.Duration, error) {
		usage, err := process.Of(os.Getpid())
		return usage.CPU - own.CPU, err
	})
}

// finish adds to a measurement what is counted afterwards, and makes sure that all is there.
func (m *measurement) finish(ctx context.Context, cp *controlPlane, n int, serverBefore time.Duration, contenderCPU func() (time.Duration, error)) error {
	server, err := cp.cpu()
	if err != nil {
		return err
	}
	if m.own, err = contenderCPU(); err != nil {
		return err
	}
	m.cpu = server - serverBefore + m.own
	if m.children, err = count(ctx, cp, n); err != nil {
		return err
	}
	m.requests, err = cp.requestsSince(0)
	return err
}
