// Package identitytest makes certificates for tests that package pki would not make: of any subject and life, by the authority
// of a fleet.
package identitytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/weft-sdn/weft/proto/identity"
)

// Issue makes a credential with a subject, by the authority whose folder is pki, and returns its folder. It lasts as long as
// is said.
func Issue(tb testing.TB, pki string, subject pkix.Name, life time.Duration) (folder string) {
	tb.Helper()
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	ca, err := os.ReadFile(filepath.Join(pki, identity.CAFile))
	must(err)
	authorities, err := identity.Certificates(ca)
	must(err)
	text, err := os.ReadFile(filepath.Join(pki, "ca.key"))
	must(err)
	block, _ := pem.Decode(text)
	issuer, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	must(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	now := time.Now()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: subject, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, authorities[0], key.Public(), issuer)
	must(err)
	own, err := x509.MarshalPKCS8PrivateKey(key)
	must(err)
	folder = tb.TempDir()
	for name, content := range map[string][]byte{
		identity.CAFile:   ca,
		identity.CertFile: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		identity.KeyFile:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: own}),
	} {
		must(os.WriteFile(filepath.Join(folder, name), content, 0o600))
	}
	return folder
}
