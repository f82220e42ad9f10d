package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/shopset/shopset/bench/internal/report"
	"github.com/shopset/shopset/internal/certrecord"
)

// world is what all contenders have: domains with certificates, in Redis and as files.
type world struct {
	folder  string
	domains int
	redis   *exec.Cmd
	address string
	client  rueidis.Client
	keys    *certrecord.Keyring
	roots   *x509.CertPool
	issuer  *x509.Certificate
	key     *ecdsa.PrivateKey
	// filed says that the certificates are files, too, which HAProxy wants.
	filed bool
}

func domain(i int) string { return fmt.Sprintf("www.shop-%07d.example", i) }

func newWorld(ctx context.Context, domains int) (*world, error) {
	folder, err := os.MkdirTemp("", "bench-certs-*")
	if err != nil {
		return nil, err
	}
	w := &world{folder: folder, domains: domains, roots: x509.NewCertPool()}
	if err := w.prepare(ctx); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *world) close() {
	if w.client != nil {
		w.client.Close()
	}
	if w.redis != nil {
		_ = w.redis.Process.Kill()
		_ = w.redis.Wait() // It was killed.
	}
	_ = os.RemoveAll(w.folder)
}

func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

func (w *world) prepare(ctx context.Context) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	w.address = fmt.Sprintf("127.0.0.1:%d", port)
	w.redis = exec.Command("redis-server", "--bind", "127.0.0.1", "--port", strconv.Itoa(port), "--save", "", "--appendonly", "no", "--dir", w.folder) //nolint:noctx // It is killed at the end.
	if err := w.redis.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if w.client, err = rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{w.address}, DisableCache: true}); err == nil {
			break
		}
		if time.Now().After(deadline) {
			return err
		}
	}
	if w.keys, err = certrecord.NewKeyring(bytes.Repeat([]byte{7}, 32)); err != nil {
		return err
	}
	root, rootKey, err := authority("bench root", nil, nil)
	if err != nil {
		return err
	}
	w.roots.AddCert(root)
	if w.issuer, w.key, err = authority("bench intermediate", root, rootKey); err != nil {
		return err
	}
	began := time.Now()
	if err := w.issue(ctx); err != nil {
		return err
	}
	report.Say("%d domains have certificates, after %.1f s", w.domains, time.Since(began).Seconds())
	return nil
}

func authority(name string, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour)}
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	return certificate, key, err
}

// issue makes all certificates and puts them into Redis: as records for ours, in PEM for others.
func (w *world) issue(ctx context.Context) error {
	var group sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	errs := make([]error, workers)
	for n := range workers {
		group.Go(func() {
			const batch = 500
			var commands rueidis.Commands
			for i := n; i < w.domains && errs[n] == nil && ctx.Err() == nil; i += workers {
				record, chain, key, err := w.certificate(i)
				if err != nil {
					errs[n] = err
					return
				}
				commands = append(commands,
					w.client.B().Set().Key(certrecord.RedisKey(domain(i))).Value(rueidis.BinaryString(record)).Build(),
					w.client.B().Hset().Key("pem:"+domain(i)).FieldValue().FieldValue("chain", string(chain)).FieldValue("key", string(key)).Build())
				if len(commands) >= batch || i+workers >= w.domains {
					for _, result := range w.client.DoMulti(ctx, commands...) {
						if err := result.Error(); err != nil {
							errs[n] = err
						}
					}
					commands = commands[:0]
				}
			}
		})
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	// The stream says that Redis has everything.
	return w.client.Do(ctx, w.client.B().Xadd().Key(certrecord.ChangesKey).Id("1-0").FieldValue().FieldValue("name", "*").Build()).Error()
}

// certificate makes one as public authorities do: about 1,000 bytes, with room for two signed timestamps.
func (w *world) certificate(i int) (record, chain, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, nil, err
	}
	stamps := make([]byte, 500)
	_, _ = rand.Read(stamps) // It never fails.
	now := time.Now()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(now.UnixNano()), DNSNames: []string{domain(i)},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(90 * 24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		ExtraExtensions: []pkix.Extension{{Id: []int{1, 3, 6, 1, 4, 1, 11129, 2, 4, 99}, Value: stamps}}}, w.issuer, private.Public(), w.key)
	if err != nil {
		return nil, nil, nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, nil, err
	}
	record, err = certrecord.Seal(w.keys, &certrecord.Record{Name: domain(i), Version: 1, Shop: fmt.Sprintf("shop-%d", i),
		Certificates: []certrecord.Certificate{{Kind: certrecord.ECDSA, Chain: [][]byte{der, w.issuer.Raw}, Key: secret, NotAfter: now.Add(90 * 24 * time.Hour).Unix()}}})
	if err != nil {
		return nil, nil, nil, err
	}
	chain = append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.issuer.Raw})...)
	return record, chain, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), nil
}

// files writes what is in Redis as files NAME.pem with chain and key, once.
func (w *world) files(ctx context.Context) (string, error) {
	folder := filepath.Join(w.folder, "certificates")
	if w.filed {
		return folder, nil
	}
	w.filed = true
	if err := os.Mkdir(folder, 0o755); err != nil { //nolint:gosec // HAProxy reads it.
		return "", err
	}
	for i := range w.domains {
		values, err := w.client.Do(ctx, w.client.B().Hmget().Key("pem:"+domain(i)).Field("chain", "key").Build()).AsStrSlice()
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(folder, domain(i)+".pem"), []byte(values[0]+values[1]), 0o644); err != nil { //nolint:gosec // As above.
			return "", err
		}
	}
	return folder, nil
}
