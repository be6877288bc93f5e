package identity

import (
	"crypto/x509"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Lifetime is when a certificate ends.
type Lifetime struct {
	// Certificate is the identity, or "ca:" and the common name of an authority.
	Certificate      string
	NotBefore, Until time.Time
}

// Soon reports whether less than a fifth of its life is left.
func (l Lifetime) Soon(now time.Time) bool { return l.Until.Sub(now) < l.Until.Sub(l.NotBefore)/5 }

// Lifetimes are those of the own certificate, if there is one, and of the authorities that are trusted.
func (c *Credential) Lifetimes() []Lifetime {
	now := c.now.Load()
	var out []Lifetime
	if leaf := now.certificate.Leaf; leaf != nil {
		out = append(out, LifetimeOf(leaf))
	}
	for _, ca := range now.authorities {
		out = append(out, LifetimeOf(ca))
	}
	return out
}

// LifetimeOf is that of a certificate.
func LifetimeOf(cert *x509.Certificate) Lifetime {
	name := cert.Subject.CommonName
	if cert.IsCA {
		name = "ca:" + name
	}
	return Lifetime{name, cert.NotBefore, cert.NotAfter}
}

func (c *Credential) warn(log *slog.Logger) {
	for _, l := range c.Lifetimes() {
		if l.Soon(time.Now()) {
			log.Warn("a certificate ends soon; renew it: weft pki rotate", "certificate", l.Certificate, "folder", c.dir,
				"expires", l.Until, "left", time.Until(l.Until).Round(time.Second))
		}
	}
}

// Describe and Collect make a Credential a prometheus.Collector of the seconds until each certificate expires; less than
// nothing afterwards.
func (c *Credential) Describe(out chan<- *prometheus.Desc) { out <- expiry() }

// Collect is half of a prometheus.Collector, see Describe.
func (c *Credential) Collect(out chan<- prometheus.Metric) {
	seen := map[string]bool{}
	for _, l := range c.Lifetimes() {
		if seen[l.Certificate] { // two authorities of one name would be one metric twice
			continue
		}
		seen[l.Certificate] = true
		out <- prometheus.MustNewConstMetric(expiry(), prometheus.GaugeValue, time.Until(l.Until).Seconds(), l.Certificate)
	}
}

func expiry() *prometheus.Desc {
	return prometheus.NewDesc("weft_certificate_expiry_seconds",
		"Seconds until a certificate that the process uses expires: its own, and the authorities that it trusts.", []string{"certificate"}, nil)
}
