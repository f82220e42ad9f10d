package operator

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/cell"
	"github.com/shopset/shopset/internal/routetable"
)

const (
	// signingKey is the entry of the Secret that signs. Every entry that ends in .pem is trusted.
	signingKey = "private.pem"
	// keyRetry is how often the Secret is read again, for keys that a human adds.
	keyRetry = time.Minute
)

// SecretName is the name of the Secret with the keys of a fleet, in the operator's namespace: who may read the Secrets
// of shops cannot sign tables, and the operator can read no Secrets of shops.
func SecretName(namespace, fleet string) string { return "routes-key." + namespace + "." + fleet }

// keyring is the keys of one fleet.
type keyring struct {
	private ed25519.PrivateKey
	trusted []ed25519.PublicKey
	// public is the trusted keys in PEM.
	public string
}

func (k *keyring) id() string {
	public, _ := k.private.Public().(ed25519.PublicKey)
	return routetable.KeyID(public)
}

// keyring reads the keys of a fleet, or makes them. The problem, if there is one, is for a human to mend.
func (r *FleetReconciler) keyring(ctx context.Context, f *v1alpha1.Fleet) (ring *keyring, problem string, err error) {
	if ring := r.memory.ring(f.UID, r.now()); ring != nil {
		return ring, "", nil
	}
	name := client.ObjectKey{Namespace: r.KeyNamespace, Name: SecretName(f.Namespace, f.Name)}
	secret := &corev1.Secret{}
	err = r.Live.Get(ctx, name, secret)
	if apierrors.IsNotFound(err) {
		if secret, err = newSecret(name); err == nil {
			err = r.Client.Create(ctx, secret, client.FieldOwner(cell.Manager))
		}
		if err == nil && f.Status.Table != nil {
			tell(ctx, r.Events, f, corev1.EventTypeWarning, "NewKey", "Sign", "Secret %s, with the key that signed the tables so far, is gone, and a new key was made: "+
				"routers refuse what it signs until they are given the public key in ConfigMap %s; or put the Secret back", name, keysName(f))
		}
		if apierrors.IsAlreadyExists(err) {
			err = r.Live.Get(ctx, name, secret) // Another operator was faster.
		}
	}
	if err != nil {
		return nil, "", fmt.Errorf("the key that signs routing tables, Secret %s: %w", name, err)
	}
	if ring, err = readKeys(secret.Data); err != nil {
		return nil, fmt.Sprintf("Secret %s: %v; mend it, or delete it to get a new key, and give routers the public one", name, err), nil
	}
	r.memory.noteRing(f.UID, ring, r.now())
	return ring, "", nil
}

func newSecret(name client.ObjectKey) (*corev1.Secret, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	text, err := routetable.MarshalPrivateKey(private)
	if err != nil {
		return nil, err
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name, Labels: map[string]string{"app.kubernetes.io/managed-by": cell.Manager}},
		Data:       map[string][]byte{signingKey: text},
	}, nil
}

func readKeys(data map[string][]byte) (*keyring, error) {
	ring := &keyring{}
	var err error
	if ring.private, err = routetable.ParsePrivateKey(data[signingKey]); err != nil {
		return nil, fmt.Errorf("%s: %w", signingKey, err)
	}
	for _, entry := range slices.Sorted(maps.Keys(data)) {
		if !strings.HasSuffix(entry, ".pem") {
			continue
		}
		var keys []ed25519.PublicKey
		if block, _ := pem.Decode(data[entry]); block != nil && block.Type == "PRIVATE KEY" {
			private, err := routetable.ParsePrivateKey(data[entry])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", entry, err)
			}
			public, _ := private.Public().(ed25519.PublicKey)
			keys = append(keys, public)
		} else if keys, err = routetable.ParsePublicKeys(data[entry]); err != nil {
			return nil, fmt.Errorf("%s: %w", entry, err)
		}
		for _, key := range keys {
			if !slices.ContainsFunc(ring.trusted, func(k ed25519.PublicKey) bool { return k.Equal(key) }) {
				ring.trusted = append(ring.trusted, key)
			}
		}
	}
	if len(ring.trusted) > routetable.MaxKeys {
		return nil, fmt.Errorf("there are %d keys; %d is the most", len(ring.trusted), routetable.MaxKeys)
	}
	public, err := routetable.MarshalPublicKeys(ring.trusted...)
	ring.public = string(public)
	return ring, err
}
