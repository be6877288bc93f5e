package proxy

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/weft-sdn/weft/agent/metadata/guest"
)

// guestKey is the key of a request's identity in its context.
type guestKey struct{}

// identity is who asks, and from where.
type identity struct {
	*visit
	*guest.Guest
}

// forwarder asks backends in guests' names.
type forwarder struct {
	httputil.ReverseProxy
	pool *pool
	log  *slog.Logger
}

func newForwarder(o Options) *forwarder {
	f := &forwarder{pool: newPool(o), log: o.Log}
	f.ReverseProxy = httputil.ReverseProxy{
		Rewrite: rewrite, Transport: f.pool, ErrorHandler: f.failed, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	return f
}

// ServeHTTP reads the body, which is small, so that a second backend can be asked the same.
func (f *forwarder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, "the body did not arrive", http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), f.pool.whole())
	defer cancel()
	r = r.WithContext(ctx)
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	f.ReverseProxy.ServeHTTP(w, r)
}

func (f *forwarder) failed(w http.ResponseWriter, _ *http.Request, err error) {
	f.pool.complain(f.log, err)
	if errors.Is(err, context.DeadlineExceeded) || timedOut(err) {
		http.Error(w, "no metadata backend answers in time", http.StatusGatewayTimeout)
		return
	}
	http.Error(w, "no metadata backend answers", http.StatusBadGateway)
}

func timedOut(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// rewrite puts what the proxy knows in place of what the guest says. net/http/httputil has dropped the headers of the
// connection, those that the guest listed in Connection among them, before.
func rewrite(r *httputil.ProxyRequest) {
	for name := range r.Out.Header {
		if !innocent(name) {
			delete(r.Out.Header, name)
		}
	}
	who, ok := r.In.Context().Value(guestKey{}).(identity)
	if !ok {
		return
	}
	r.Out.Host = ""
	h := r.Out.Header
	h.Set("X-Forwarded-For", who.source.String())
	h.Set("X-Instance-ID", who.Instance)
	h.Set("X-Tenant-ID", who.Project)
	if who.Signature != "" {
		h.Set("X-Instance-ID-Signature", who.Signature)
	}
	if who.at.Router != "" {
		h.Set("X-Neutron-Router-ID", who.at.Router)
	} else {
		h.Set("X-Neutron-Network-ID", who.at.Network)
	}
}

// innocent reports whether a header says nothing about who is asking. A backend behind CGI or WSGI can't tell '_' and '-'
// apart (RFC 3875, 4.1.18), and some servers take other signs for them too: nothing but letters, digits and '-' passes.
func innocent(name string) bool {
	odd := func(c rune) bool {
		return c != '-' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z')
	}
	if strings.ContainsFunc(name, odd) {
		return false
	}
	name = strings.ToLower(name)
	for _, prefix := range []string{"forwarded", "x-forwarded", "x-instance", "x-tenant", "x-project", "x-neutron", "x-metadata-provider", "x-real-ip", "x-remote", "x-user", "x-auth"} {
		if strings.HasPrefix(name, prefix) {
			return false
		}
	}
	return true
}

// aside is how long a backend that did not answer is asked only if no other answers.
const aside = 5 * time.Second

// backend is one of several that know the same.
type backend struct {
	url  *url.URL
	down atomic.Int64 // until when it is aside, in nanoseconds since 1970
}

// pool asks backends in turn. It is an http.RoundTripper.
type pool struct {
	backends  []*backend
	transport *http.Transport
	timeout   time.Duration
	next      atomic.Uint64
	said      atomic.Int64 // when it last complained, as in backend
}

func newPool(o Options) *pool {
	p := &pool{timeout: cmp.Or(o.BackendTimeout, 5*time.Second)}
	for _, u := range o.Backends {
		p.backends = append(p.backends, &backend{url: u})
	}
	p.transport = &http.Transport{
		DialContext:         (&net.Dialer{Timeout: min(p.timeout, 2*time.Second)}).DialContext,
		TLSClientConfig:     &tls.Config{RootCAs: o.BackendCA, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: p.timeout, ResponseHeaderTimeout: p.timeout, IdleConnTimeout: time.Minute,
		MaxIdleConnsPerHost: 32, MaxResponseHeaderBytes: maxHeader, DisableCompression: true,
	}
	return p
}

// whole bounds a request to all backends, in case each is slow, with its answer.
func (p *pool) whole() time.Duration {
	return min(p.timeout*time.Duration(len(p.backends)+1), writeTime)
}

// order is in which order to ask: in turn, those that are aside last.
func (p *pool) order(now time.Time) []*backend {
	n := int(p.next.Add(1) % uint64(len(p.backends))) //nolint:gosec // less than a small int
	out := slices.Concat(p.backends[n:], p.backends[:n])
	slices.SortStableFunc(out, func(a, b *backend) int {
		return cmp.Compare(max(0, a.down.Load()-now.UnixNano()), max(0, b.down.Load()-now.UnixNano()))
	})
	return out
}

// RoundTrip asks one backend after the other until one answers: one that is not there, or, if asking twice does no harm, one
// that is but fails. The last one's answer counts, whatever it is.
func (p *pool) RoundTrip(r *http.Request) (*http.Response, error) {
	var errs []error
	order := p.order(time.Now())
	for i, b := range order {
		answer, err := p.one(r, b)
		harmless := r.Method == http.MethodGet || r.Method == http.MethodHead
		failed := err != nil || unavailable(answer.StatusCode)
		if failed && r.Context().Err() == nil {
			b.down.Store(time.Now().Add(aside).UnixNano())
		}
		again := i+1 < len(order) && r.Context().Err() == nil && (notThere(err) || failed && harmless)
		if err == nil && !again {
			return answer, nil
		}
		if err == nil {
			err = fmt.Errorf("status %s", answer.Status)
			_ = answer.Body.Close()
		}
		errs = append(errs, fmt.Errorf("backend %s: %w", b.url, err))
		if !again {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func (p *pool) one(r *http.Request, b *backend) (*http.Response, error) {
	out := r.Clone(r.Context())
	out.URL.Scheme, out.URL.Host = b.url.Scheme, b.url.Host
	if r.GetBody != nil && r.ContentLength > 0 {
		body, err := r.GetBody()
		if err != nil {
			return nil, err
		}
		out.Body = body
	}
	return p.transport.RoundTrip(out)
}

// unavailable reports whether a backend says by its status that another may do better.
func unavailable(status int) bool {
	return status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout
}

// notThere reports whether a backend has not heard the request.
func notThere(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// complain logs that no backend answers, not more often than one is set aside.
func (p *pool) complain(log *slog.Logger, err error) {
	now, last := time.Now().UnixNano(), p.said.Load()
	if now-last > int64(aside) && p.said.CompareAndSwap(last, now) {
		log.Warn("no metadata backend answers", "error", err)
	}
}
