package peer_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weft-sdn/weft/agent/peer"
)

// secret is a key's line; the same letter is the same key.
func secret(letter byte) string {
	return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{letter}, peer.KeySize))
}

func file(t *testing.T, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "peer.key")
	write(t, path, lines...)
	return path
}

func write(t *testing.T, path string, lines ...string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, lines ...string) *peer.Keyring {
	t.Helper()
	k, err := peer.Load(file(t, lines...))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// talk has a client and a server exchange a byte each way and returns what either end says.
func talk(t *testing.T, client, server *tls.Config) (clientErr, serverErr error) {
	t.Helper()
	lis, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	done := make(chan error, 1)
	go func() {
		raw, err := lis.Accept()
		if err != nil {
			done <- err
			return
		}
		defer raw.Close()
		done <- echo(tls.Server(raw, server), true)
	}()
	raw, err := net.Dial("tcp4", lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	clientErr = echo(tls.Client(raw, client), false)
	raw.Close()
	return clientErr, <-done
}

func echo(c *tls.Conn, first bool) error {
	c.SetDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 1)
	if first {
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
		_, err := c.Write(b)
		return err
	}
	if _, err := c.Write(b); err != nil {
		return err
	}
	_, err := io.ReadFull(c, b)
	return err
}

func TestHoldersOfAKeyTalk(t *testing.T) {
	for name, c := range map[string]struct{ client, server []string }{
		"the same key":                  {[]string{secret('a')}, []string{secret('a')}},
		"the new one is at the end yet": {[]string{secret('a')}, []string{secret('a'), secret('b')}},
		"one uses the new one":          {[]string{secret('a'), secret('b')}, []string{secret('b'), secret('a')}},
		"with comments":                 {[]string{"# key", "", secret('a')}, []string{"  " + secret('a')}},
	} {
		ce, se := talk(t, load(t, c.client...).TLS(), load(t, c.server...).TLS())
		if ce != nil || se != nil {
			t.Errorf("%s: client %v, server %v", name, ce, se)
		}
	}
}

func TestAPeerWithoutTheKeyIsRefusedByEitherEnd(t *testing.T) {
	holder := load(t, secret('a')).TLS()
	other := load(t, secret('b')).TLS()
	trusting := other.Clone()
	trusting.VerifyConnection = nil
	bare := &tls.Config{InsecureSkipVerify: true}
	old := trusting.Clone()
	old.MinVersion, old.MaxVersion = 0, tls.VersionTLS12
	for name, client := range map[string]*tls.Config{
		"of another fleet": trusting, "without a certificate": bare, "that speaks TLS 1.2": old, "with a certificate of its own": ownCertificate(t),
	} {
		if _, se := talk(t, client, holder); se == nil {
			t.Errorf("a client %s was let in", name)
		}
	}
	trusting.ClientAuth = tls.NoClientCert
	if ce, _ := talk(t, holder, trusting); !errors.Is(ce, peer.ErrStranger) {
		t.Errorf("a server of another fleet was trusted: %v", ce)
	}
}

// ownCertificate is a client that shows the fleet's public key beside its own.
func ownCertificate(t *testing.T) *tls.Config {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	stolen, err := load(t, secret('a')).TLS().GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{{
		Certificate: [][]byte{der, stolen.Certificate[0]}, PrivateKey: private,
	}}}
}

func TestAKeyThatIsRemovedLetsNobodyInAnyMore(t *testing.T) {
	path := file(t, secret('a'), secret('b'))
	k, err := peer.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	server, old := k.TLS(), load(t, secret('b'), secret('a')).TLS()
	var state tls.ConnectionState
	watched := server.Clone()
	watched.VerifyConnection = func(s tls.ConnectionState) error { state = s; return k.Verify(s, "") }
	if ce, se := talk(t, old, watched); ce != nil || se != nil {
		t.Fatalf("before: %v, %v", ce, se)
	}
	write(t, path, secret('a'))
	if changed, err := k.Reload(); !changed || err != nil {
		t.Fatalf("reload: %v, %v", changed, err)
	}
	if changed, err := k.Reload(); changed || err != nil {
		t.Errorf("reload of the same: %v, %v", changed, err)
	}
	if err := k.Verify(state, ""); !errors.Is(err, peer.ErrStranger) {
		t.Errorf("an open connection of the removed key is still a peer's: %v", err)
	}
	if _, se := talk(t, old, server); !errors.Is(se, peer.ErrStranger) {
		t.Errorf("the removed key: %v", se)
	}
}

func TestAFileThatCannotBeTrustedIsRefusedAndItsKeysAreNotPrinted(t *testing.T) {
	bad := strings.Repeat("s3cret", 5)
	for name, c := range map[string]struct {
		lines []string
		mode  os.FileMode
		want  string
	}{
		"readable by the group": {[]string{secret('a')}, 0o640, "mode 0640"},
		"writable by others":    {[]string{secret('a')}, 0o602, "mode 0602"},
		"empty":                 {nil, 0o600, "no key"},
		"not base64":            {[]string{secret('a'), bad + "!"}, 0o600, "line 2"},
		"too short":             {[]string{base64.StdEncoding.EncodeToString([]byte(bad))}, 0o600, "line 1"},
		"too many":              {strings.Split(strings.Repeat(secret('a')+" ", 9)[:9*45-1], " "), 0o600, "line 9"},
	} {
		path := file(t, c.lines...)
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		_, err := peer.Load(path)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := peer.Load(t.TempDir()); err == nil {
		t.Error("a directory was read")
	}
	k := load(t, secret('a'))
	if all := fmt.Sprintf("%v %+v %#v %s", k, k, k, k); strings.Contains(all, "97 97") || strings.Contains(all, "gossip") {
		t.Errorf("prints %s", all)
	}
}

func TestAFileThatBecameUnreadableLeavesTheKeysAsTheyAre(t *testing.T) {
	path := file(t, secret('a'))
	k, err := peer.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, "nonsense")
	if _, err := k.Reload(); err == nil {
		t.Error("nonsense was taken")
	}
	if ce, se := talk(t, load(t, secret('a')).TLS(), k.TLS()); ce != nil || se != nil {
		t.Errorf("afterwards: %v, %v", ce, se)
	}
}

func TestSecretsOfGossipAreDerived(t *testing.T) {
	got := load(t, secret('a'), secret('b')).Gossip()
	if len(got) != 2 || len(got[0]) != 32 || bytes.Equal(got[0], got[1]) || bytes.Contains(got[0], []byte("aaaa")) {
		t.Errorf("secrets %v", got)
	}
	if again := load(t, secret('a')).Gossip(); !bytes.Equal(again[0], got[0]) {
		t.Error("another node derives another secret")
	}
}
