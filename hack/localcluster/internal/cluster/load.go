package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shopset/shopset/hack/localcluster/internal/component"
	"github.com/shopset/shopset/hack/localcluster/internal/keeper"
	"github.com/shopset/shopset/hack/localcluster/internal/preflight"
)

// Load brings image files (docker-archive or OCI layout, as tar) into the cluster, several at a
// time. A file that was loaded in this run and whose images are all still there is skipped.
func (c *Cluster) Load(ctx context.Context, files []string) error {
	if err := preflight.Root(); err != nil {
		return err
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	record, err := c.running()
	if err != nil {
		return err
	}
	present, err := c.images(ctx, record)
	if err != nil {
		return err
	}
	loaded := c.readLoaded()
	type result struct {
		sum    string
		images map[string]string
	}
	results := make([]result, len(files))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for i, file := range files {
		group.Go(func() error {
			began := time.Now()
			sum, err := hashFile(file)
			if err != nil {
				return err
			}
			if images, ok := loaded[sum]; ok && contains(present, images) {
				c.say.Line("%s: already there", file)
				return nil
			}
			images, err := c.importImages(ctx, record, file)
			if err != nil {
				return err
			}
			results[i] = result{sum, images}
			for ref := range images {
				c.say.Line("%s: loaded %s in %.2f s", file, ref, time.Since(began).Seconds())
			}
			return nil
		})
	}
	err = group.Wait()
	for _, r := range results {
		if r.sum != "" {
			loaded[r.sum] = r.images
		}
	}
	return errors.Join(err, c.writeLoaded(loaded))
}

// containerdSocket reaches into the node: its /run is its own.
func containerdSocket(record keeper.Record) string {
	return fmt.Sprintf("/proc/%d/root%s", record.Node.PID, component.ContainerdSocket)
}

func (c *Cluster) ctr(ctx context.Context, record keeper.Record, args ...string) (string, error) {
	args = append([]string{"--address", containerdSocket(record), "--namespace", "k8s.io"}, args...)
	cmd := exec.CommandContext(ctx, c.layout.Program("ctr"), args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

// importFile loads one file.
func (c *Cluster) importFile(ctx context.Context, record keeper.Record, file string) error {
	if _, err := c.ctr(ctx, record, "images", "import", "--local", file); err != nil {
		return fmt.Errorf("%s is not an image that can be loaded: %w", file, err)
	}
	return nil
}

// importImages loads one file and returns its images with their digests.
func (c *Cluster) importImages(ctx context.Context, record keeper.Record, file string) (map[string]string, error) {
	refs, err := refsOf(file)
	if err != nil {
		return nil, err
	}
	if err := c.importFile(ctx, record, file); err != nil {
		return nil, err
	}
	present, err := c.images(ctx, record)
	if err != nil {
		return nil, err
	}
	images := make(map[string]string)
	for _, ref := range refs {
		digest, ok := present[ref]
		if !ok {
			return nil, fmt.Errorf("%s names image %s, but containerd does not know it", file, ref)
		}
		images[ref] = digest
	}
	return images, nil
}

// images returns the digest of every image that the node has.
func (c *Cluster) images(ctx context.Context, record keeper.Record) (map[string]string, error) {
	out, err := c.ctr(ctx, record, "images", "list")
	if err != nil {
		return nil, fmt.Errorf("images of the node: %w", err)
	}
	images := make(map[string]string)
	for line := range strings.Lines(out) {
		if fields := strings.Fields(line); len(fields) > 2 && strings.HasPrefix(fields[2], "sha256:") {
			images[fields[0]] = fields[2]
		}
	}
	return images, nil
}

func contains(present, images map[string]string) bool {
	for ref, digest := range images {
		if present[ref] != digest {
			return false
		}
	}
	return len(images) > 0
}

func hashFile(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// loadedFile remembers which images came from which file, by its hash.
func (c *Cluster) loadedFile() string { return filepath.Join(c.layout.Run(), "loaded.json") }

func (c *Cluster) readLoaded() map[string]map[string]string {
	loaded := make(map[string]map[string]string)
	if data, err := os.ReadFile(c.loadedFile()); err == nil {
		_ = json.Unmarshal(data, &loaded)
	}
	return loaded
}

func (c *Cluster) writeLoaded(loaded map[string]map[string]string) error {
	data, err := json.Marshal(loaded)
	if err != nil {
		return err
	}
	return os.WriteFile(c.loadedFile(), data, 0o644)
}
