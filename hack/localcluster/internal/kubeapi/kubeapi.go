// Package kubeapi is the little of a Kubernetes client that up and status need. client-go would
// make this tool's own build take a minute instead of a second.
package kubeapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/shopset/shopset/hack/localcluster/internal/component"
)

// Client talks to the API server of a cluster as its administrator.
type Client struct {
	base string
	http http.Client
}

// New returns a client that goes the way a user's kubectl goes.
func New(spec component.Spec) (*Client, error) {
	dir := filepath.Join(spec.Layout.Run(), "pki")
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "admin.crt"), filepath.Join(dir, "admin.key"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &Client{
		base: fmt.Sprintf("https://127.0.0.1:%d", spec.API.Host),
		http: http.Client{
			Timeout:   5 * time.Second,
			Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}},
		},
	}, nil
}

// StatusError is an answer that is not a success.
type StatusError struct {
	Code    int
	Message string
}

func (e *StatusError) Error() string { return fmt.Sprintf("API server: %d: %s", e.Code, e.Message) }

// Get reads an object into out, which may be nil.
func (c *Client) Get(ctx context.Context, path string, out any) error {
	return c.do(ctx, http.MethodGet, path, nil, out)
}

// Create makes objects; one that is there already is left as it is.
func (c *Client) Create(ctx context.Context, path string, object any) error {
	body, err := json.Marshal(object)
	if err != nil {
		return err
	}
	err = c.do(ctx, http.MethodPost, path, body, nil)
	var status *StatusError
	if errors.As(err, &status) && status.Code == http.StatusConflict {
		return nil
	}
	return err
}

func (c *Client) do(ctx context.Context, method, path string, body []byte, out any) error {
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, 8<<20))
	if err != nil {
		return err
	}
	if response.StatusCode >= 300 {
		var status struct{ Message string }
		if json.Unmarshal(data, &status) != nil || status.Message == "" {
			status.Message = string(data)
		}
		return &StatusError{response.StatusCode, status.Message}
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(data, out)
}

// NodeReady says whether the node takes Pods, and why not.
func (c *Client) NodeReady(ctx context.Context) (bool, string, error) {
	var node struct {
		Spec   struct{ Taints []struct{ Key string } }
		Status struct {
			Conditions []struct{ Type, Status, Message string }
		}
	}
	if err := c.Get(ctx, "/api/v1/nodes/"+component.NodeName, &node); err != nil {
		return false, "", err
	}
	if len(node.Spec.Taints) > 0 {
		return false, "tainted " + node.Spec.Taints[0].Key, nil
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == "Ready" {
			return condition.Status == "True", condition.Message, nil
		}
	}
	return false, "has not reported yet", nil
}
