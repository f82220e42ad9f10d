// Command probe is what the test's Pods run: a server, and the commands that kubectl exec runs in
// its container, which has no shell.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

func main() {
	if len(os.Args) == 1 {
		serve()
	}
	var err error
	switch command, arg := os.Args[1], os.Args[2]; command {
	case "get":
		err = get(arg)
	case "lookup":
		err = lookup(arg)
	case "read":
		err = read(arg)
	case "write":
		err = os.WriteFile(arg, []byte("written\n"), 0o600)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func serve() {
	name, _ := os.Hostname()
	log.Printf("serving as %s", name)
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, name) })
	log.Fatal(http.ListenAndServe(":8080", nil))
}

// get fetches a URL, with the Pod's token and authority when it is the API server's.
func get(url string) error {
	client := http.Client{Timeout: 5 * time.Second}
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if strings.HasPrefix(url, "https://kubernetes") {
		const dir = "/var/run/secrets/kubernetes.io/serviceaccount/"
		ca, err := os.ReadFile(dir + "ca.crt")
		if err != nil {
			return err
		}
		token, err := os.ReadFile(dir + "token")
		if err != nil {
			return err
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(ca)
		client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
		request.Header.Set("Authorization", "Bearer "+string(token))
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(os.Stdout, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", response.Status)
	}
	return nil
}

func lookup(name string) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupHost(ctx, name)
	fmt.Println(addresses, "after", time.Since(began).Round(time.Millisecond))
	return err
}

func read(file string) error {
	data, err := os.ReadFile(file)
	if err == nil {
		_, err = os.Stdout.Write(data)
	}
	return err
}
