package proxy_test

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weft-sdn/weft/agent/metadata/guest"
	"github.com/weft-sdn/weft/agent/metadata/proxy"
	"github.com/weft-sdn/weft/agent/metadata/wire"
)

// site is a proxy that guests at 127.0.0.0/8 reach as if they were on a network without a router.
type site struct {
	*testing.T
	*proxy.Proxy
	address string
	dir     string
	agent   *http.Server
	mu      sync.Mutex
	asked   []wire.Question
	status  int // what the agent answers; 0: the guest
}

const network = "11111111-1111-1111-1111-111111111111"

func newSite(t *testing.T, change ...func(*proxy.Options)) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "wm") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	s := &site{T: t, dir: dir}
	s.startAgent()
	t.Cleanup(func() { s.agent.Close() })
	o := proxy.Options{
		Ask: filepath.Join(dir, "ask"), Rate: 1000, Connections: 100, Patience: 5 * time.Second, BackendTimeout: 2 * time.Second,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	for _, c := range change {
		c(&o)
	}
	if s.Proxy, err = proxy.New(o); err != nil {
		t.Fatal(err)
	}
	control, err := wire.Bind(filepath.Join(dir, "control"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Proxy.Run(ctx, control) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	s.address = s.open(wire.Place{Network: network})
	return s
}

// open has the proxy listen on loopback for guests of a place.
func (s *site) open(at wire.Place) string {
	s.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		s.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		s.Fatal(err)
	}
	if err := s.Listen(wire.Listener{Place: at, Inode: 1, Address: netip.MustParseAddrPort(l.Addr().String())}, f); err != nil {
		s.Fatal(err)
	}
	return l.Addr().String()
}

// startAgent answers questions: every guest is vm-<address>.
func (s *site) startAgent() {
	s.Helper()
	path := filepath.Join(s.dir, "ask")
	if err := os.RemoveAll(path); err != nil {
		s.Fatal(err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		s.Fatal(err)
	}
	agent := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q wire.Question
		err := json.NewDecoder(r.Body).Decode(&q)
		s.mu.Lock()
		s.asked = append(s.asked, q)
		status := s.status
		s.mu.Unlock()
		if err != nil || status != 0 {
			http.Error(w, "no", max(status, 400))
			return
		}
		if err := json.NewEncoder(w).Encode(guest.Guest{
			Instance: "vm-" + q.Source.String(), Project: "blue", Hostname: "h", Signature: "signed", UserData: []byte("data of " + q.Network + q.Router),
		}); err != nil {
			s.Log(err) // whoever asked has gone
		}
	})}
	s.agent = agent
	go func() {
		if err := agent.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.Error(err)
		}
	}()
}

// ask sends text as it is and gives the status and what follows.
func (s *site) ask(text string) (int, string) {
	s.Helper()
	status, _, body, err := exchange(s.address, text)
	if err != nil {
		s.Fatal(err)
	}
	return status, body
}

func exchange(address, text string) (int, http.Header, string, error) {
	c, err := net.Dial("tcp4", address)
	if err != nil {
		return 0, nil, "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, text); err != nil {
		return 0, nil, "", err
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, nil, "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	return r.StatusCode, r.Header, string(body), err
}

func send(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

func get(path string, headers ...string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: 169.254.169.254\r\n" + strings.Join(append(headers, ""), "\r\n") + "\r\n"
}

// eventually waits until a condition holds.
func (s *site) eventually(what string, holds func() bool) {
	s.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.Fatal("waited in vain until " + what)
		}
	}
}

func TestAGuestIsKnownByItsAddressAndPlace(t *testing.T) {
	s := newSite(t)
	other := "22222222-2222-2222-2222-222222222222"
	second := s.open(wire.Place{Network: other})
	for address, want := range map[string]string{s.address: "data of " + network, second: "data of " + other} {
		if status, _, body, err := exchange(address, get("/latest/user-data")); status != 200 || body != want || err != nil {
			t.Errorf("%d %q %v, want %q", status, body, err, want)
		}
	}
	if status, body := s.ask(get("/openstack/latest/meta_data.json")); status != 200 || !strings.Contains(body, `"uuid":"vm-127.0.0.1"`) {
		t.Errorf("%d %q", status, body)
	}
}

// TestRequestsThatMayBeReadInTwoWays: each is answered by its status, and no second answer follows.
func TestRequestsThatMayBeReadInTwoWays(t *testing.T) {
	s := newSite(t)
	smuggled := "GET /latest/user-data HTTP/1.1\r\nHost: x\r\n\r\n"
	for name, c := range map[string]struct {
		text string
		want int
	}{
		"content length and chunked":    {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled, 501},
		"chunked":                       {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled, 501},
		"another transfer encoding":     {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n", 501},
		"transfer encoding with a tab":  {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n", 501},
		"two transfer encodings":        {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501},
		"two different content lengths": {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd", 400},
		"content length with a sign":    {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +4\r\n\r\nabcd", 400},
		"content length list":           {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4, 4\r\n\r\nabcd", 400},
		"folded header":                 {"GET / HTTP/1.1\r\nHost: x\r\nX-A: b\r\n X-Instance-ID: y\r\n\r\n", 400},
		"header folded by a tab":        {"GET / HTTP/1.1\r\nHost: x\r\nX-A: b\r\n\tc\r\n\r\n", 400},
		"bare line feeds":               {"GET / HTTP/1.1\nHost: x\n\n", 400},
		"bare line feed in a header":    {"GET / HTTP/1.1\r\nHost: x\r\nX-A: b\nX-Instance-ID: y\r\n\r\n", 400},
		"bare carriage return":          {"GET / HTTP/1.1\r\nHost: x\r\nX-A: b\rX-Instance-ID: y\r\n\r\n", 400},
		"NUL":                           {"GET / HTTP/1.1\r\nHost: x\r\nX-A: b\x00\r\n\r\n", 400},
		"space before the colon":        {"GET / HTTP/1.1\r\nHost: x\r\nContent-Length : 4\r\n\r\nabcd", 400},
		"space before the request":      {" GET / HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"header without a name":         {"GET / HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n", 400},
		"no host":                       {"GET / HTTP/1.1\r\n\r\n", 400},
		"two hosts":                     {"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400},
		"absolute form":                 {"GET http://10.0.0.1/ HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"CONNECT":                       {"CONNECT 10.0.0.1:22 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"asterisk":                      {"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"TRACE":                         {"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n", 405},
		"upgrade":                       {"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 400},
		"upgrade in a list":             {"GET / HTTP/1.1\r\nHost: x\r\nConnection: close, upgrade\r\n\r\n", 400},
		"expectation":                   {"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\na", 417},
		"HTTP/2":                        {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
		"header too large":              {"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + strings.Repeat("a", 40<<10) + "\r\n\r\n", 431},
		"target too large":              {"GET /" + strings.Repeat("a", 40<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n", 431},
		"body too large":                {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n", 413},
		"body that hides a request":     {"GET /latest/meta-data/hostname HTTP/1.1\r\nHost: x\r\nContent-Length: 48\r\n\r\n" + smuggled, 200},
		"two requests at once":          {get("/latest/meta-data/hostname") + smuggled, 200},
		"no protocol":                   {"GET /\r\n\r\n", 400},
		"TLS":                           {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp4", s.address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			send(t, conn, c.text)
			answer := bufio.NewReader(conn)
			r, err := http.ReadResponse(answer, nil)
			if err != nil {
				t.Fatal(err)
			}
			if r.StatusCode != c.want || !r.Close && r.ProtoMinor == 1 {
				t.Errorf("status %d, closes %v; want %d and the end", r.StatusCode, r.Close, c.want)
			}
			body, _ := io.ReadAll(r.Body) // the connection may have been reset: not all was read at the other end
			rest, _ := io.ReadAll(answer)
			if text := string(body) + string(rest); strings.Contains(text, "data of") || strings.Count(text, "HTTP/1.1") > 0 {
				t.Errorf("more than one answer: %q", text)
			}
		})
	}
}

func TestTheProxyAnswersReadsOnly(t *testing.T) {
	s := newSite(t)
	for text, want := range map[string]int{
		"PUT /latest/api/token HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n":               405,
		"POST /openstack/latest/password HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na":    405,
		"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n":                                             404,
		"GET /latest/meta-data/hostname HTTP/1.0\r\n\r\n":                                      200,
		"GET /latest/meta-data/hostname?x=%00 HTTP/1.1\r\nHost: x\r\nX-Instance-ID: y\r\n\r\n": 200,
	} {
		if status, body := s.ask(text); status != want {
			t.Errorf("%q: %d %q, want %d", text, status, body, want)
		}
	}
}

// upstream is a backend that tells what it was asked.
type upstream struct {
	*httptest.Server
	asked atomic.Int32
	last  atomic.Pointer[http.Request]
	body  atomic.Pointer[string]
}

func newUpstream(t *testing.T, tls bool, serve http.HandlerFunc) *upstream {
	t.Helper()
	u := &upstream{}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		text := string(body)
		u.body.Store(&text)
		u.last.Store(r)
		u.asked.Add(1)
		if serve != nil {
			serve(w, r)
			return
		}
		fmt.Fprint(w, "from the backend")
	})
	if tls {
		u.Server = httptest.NewTLSServer(h)
	} else {
		u.Server = httptest.NewServer(h)
	}
	t.Cleanup(u.Close)
	return u
}

func backends(urls ...string) func(*proxy.Options) {
	return func(o *proxy.Options) {
		for _, text := range urls {
			u, _ := url.Parse(text)
			o.Backends = append(o.Backends, u)
		}
	}
}

// TestWhatAGuestSaysOfItselfIsReplaced sends every spelling of the headers that say who asks.
func TestWhatAGuestSaysOfItselfIsReplaced(t *testing.T) {
	up := newUpstream(t, false, nil)
	s := newSite(t, backends(up.URL))
	var forged []string
	for _, name := range []string{
		"X-Instance-ID", "X-Tenant-ID", "X-Project-ID", "X-Instance-ID-Signature", "X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "X-Real-IP",
		"X-Neutron-Router-ID", "X-Neutron-Network-ID", "X-Metadata-Provider", "X-Metadata-Provider-Signature",
	} {
		under, dot := strings.ReplaceAll(name, "-", "_"), strings.ReplaceAll(name, "-", ".")
		for _, spelt := range []string{name, strings.ToLower(name), strings.ToUpper(name), under, strings.ToLower(under), strings.Replace(name, "-", "_", 1), dot} {
			forged = append(forged, spelt+": forged", spelt+": forged again")
		}
	}
	forged = append(forged, "Connection: close, X-Instance-ID, X-Tenant-ID, X-Forwarded-For, X-Instance-ID-Signature", "X-Harmless: yes", "User-Agent: cloud-init")
	status, body := s.ask(get("/openstack/latest/meta_data.json?a=b", forged...))
	if status != 200 || body != "from the backend" {
		t.Fatalf("%d %q", status, body)
	}
	got := up.last.Load()
	for name, lines := range got.Header {
		if strings.Contains(strings.Join(lines, " "), "forged") {
			t.Errorf("%s: %q passed", name, lines)
		}
	}
	for name, want := range map[string]string{
		"X-Forwarded-For": "127.0.0.1", "X-Instance-Id": "vm-127.0.0.1", "X-Tenant-Id": "blue", "X-Instance-Id-Signature": "signed",
		"X-Neutron-Network-Id": network, "X-Neutron-Router-Id": "", "X-Harmless": "yes", "User-Agent": "cloud-init",
	} {
		if have := got.Header.Get(name); have != want || len(got.Header[name]) > 1 {
			t.Errorf("%s: %q, want %q", name, got.Header[name], want)
		}
	}
	if got.RequestURI != "/openstack/latest/meta_data.json?a=b" || "http://"+got.Host != up.URL {
		t.Errorf("asked %s for %s", got.Host, got.RequestURI)
	}
}

func TestABodyReachesTheBackend(t *testing.T) {
	up := newUpstream(t, false, nil)
	s := newSite(t, backends("http://127.0.0.1:1", up.URL)) // nobody listens on port 1
	for range 2 {
		if status, body := s.ask("POST /openstack/latest/password HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nsecret"); status != 200 || *up.body.Load() != "secret" {
			t.Errorf("%d %q, the backend got %q", status, body, *up.body.Load())
		}
	}
	if up.asked.Load() != 2 {
		t.Errorf("asked %d times", up.asked.Load())
	}
}

func TestBackendsAreAskedInTurnAndFailuresPassedOver(t *testing.T) {
	well, ill := newUpstream(t, false, nil), newUpstream(t, false, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	also := newUpstream(t, false, nil)
	release := make(chan struct{})
	defer close(release)
	slow := newUpstream(t, false, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	s := newSite(t, backends("http://127.0.0.1:1", well.URL, ill.URL, slow.URL, also.URL), func(o *proxy.Options) { o.BackendTimeout = 500 * time.Millisecond })
	for range 12 {
		if status, body := s.ask(get("/")); status != 200 {
			t.Errorf("%d %q", status, body)
		}
	}
	if well.asked.Load() == 0 || also.asked.Load() == 0 || well.asked.Load()+also.asked.Load() != 12 {
		t.Errorf("asked %d and %d times", well.asked.Load(), also.asked.Load())
	}
	if ill.asked.Load() > 2 || slow.asked.Load() > 2 {
		t.Errorf("backends that fail were asked %d and %d times", ill.asked.Load(), slow.asked.Load())
	}
}

func TestWithoutABackendThatAnswersTheGuestIsTold(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	slow := newUpstream(t, false, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	for _, c := range []struct {
		url  string
		want int
	}{{"http://127.0.0.1:1", 502}, {slow.URL, 504}} {
		s := newSite(t, backends(c.url), func(o *proxy.Options) { o.BackendTimeout = 300 * time.Millisecond })
		if status, body := s.ask(get("/")); status != c.want {
			t.Errorf("%s: %d %q, want %d", c.url, status, body, c.want)
		}
	}
	ill := newUpstream(t, false, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "not me", http.StatusServiceUnavailable) })
	if status, body := newSite(t, backends(ill.URL)).ask(get("/")); status != 503 || !strings.Contains(body, "not me") {
		t.Errorf("the only backend's answer: %d %q", status, body)
	}
}

func TestAWriteIsNotRepeated(t *testing.T) {
	ill := newUpstream(t, false, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	s := newSite(t, backends(ill.URL, ill.URL))
	if status, _ := s.ask("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na"); status != 503 || ill.asked.Load() != 1 {
		t.Errorf("%d, asked %d times", status, ill.asked.Load())
	}
}

func TestAnHTTPSBackendIsVerified(t *testing.T) {
	up := newUpstream(t, true, nil)
	if status, _ := newSite(t, backends(up.URL)).ask(get("/")); status != 502 {
		t.Errorf("a backend that nobody vouches for: %d", status)
	}
	s := newSite(t, backends(up.URL), func(o *proxy.Options) {
		o.BackendCA = x509.NewCertPool()
		o.BackendCA.AddCert(up.Certificate())
	})
	if status, body := s.ask(get("/")); status != 200 {
		t.Errorf("%d %q", status, body)
	}
}

func TestRequestsWaitForAnAgentThatIsAway(t *testing.T) {
	s := newSite(t)
	s.agent.Close()
	answered := make(chan int, 1)
	go func() {
		status, _, _, err := exchange(s.address, get("/latest/meta-data/hostname"))
		if err != nil {
			s.Error(err)
		}
		answered <- status
	}()
	select {
	case status := <-answered:
		t.Errorf("answered %d without the agent", status)
	case <-time.After(300 * time.Millisecond):
	}
	s.startAgent()
	if status := <-answered; status != 200 {
		t.Errorf("answered %d", status)
	}
}

func TestWhoIsNotKnownIsToldSo(t *testing.T) {
	s := newSite(t, func(o *proxy.Options) { o.Patience = 200 * time.Millisecond })
	for agent, want := range map[int]int{404: 404, 422: 500, 503: 503, 500: 503} {
		s.mu.Lock()
		s.status = agent
		s.mu.Unlock()
		if status, body := s.ask(get("/latest/user-data")); status != want {
			t.Errorf("the agent says %d: %d %q, want %d", agent, status, body, want)
		}
	}
}

func TestAGuestThatAsksTooOftenDisturbsNobodyElse(t *testing.T) {
	s := newSite(t, func(o *proxy.Options) { o.Rate = 2 }) // a burst of 10, and 10 refusals
	counts := map[int]int{}
	cut := 0
	for range 60 {
		status, _, _, err := exchange(s.address, get("/latest/meta-data/hostname"))
		if err != nil {
			cut++
			continue
		}
		counts[status]++
	}
	if counts[200] < 10 || counts[429] < 9 || cut < 10 || len(counts) != 2 {
		t.Errorf("%v, %d cut", counts, cut)
	}
	other := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	c, err := other.Dial("tcp4", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	send(t, c, get("/latest/meta-data/hostname"))
	if r, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || r.StatusCode != 200 {
		t.Errorf("another guest: %v %v", r, err)
	}
	if got := s.Counts(); got["200"] < 11 || got["429"] < 9 || got["cut"] < 10 {
		t.Errorf("counted %v", got)
	}
}

func TestAGuestHoldsNoMoreConnectionsThanItMay(t *testing.T) {
	s := newSite(t, func(o *proxy.Options) { o.Connections = 3 })
	var held []net.Conn
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	for range 3 {
		c, err := net.Dial("tcp4", s.address)
		if err != nil {
			t.Fatal(err)
		}
		send(t, c, "GET / HT") // and no more
		held = append(held, c)
	}
	s.eventually("a fourth connection is cut", func() bool {
		_, _, _, err := exchange(s.address, get("/"))
		return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.EPIPE)
	})
	held[0].Close()
	s.eventually("there is room again", func() bool {
		status, _, _, err := exchange(s.address, get("/"))
		return err == nil && status == 200
	})
}

func TestAShutPlaceKeepsNoConnection(t *testing.T) {
	s := newSite(t)
	c, err := net.Dial("tcp4", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	send(t, c, "GET /")
	s.eventually("it is listed", func() bool { return len(s.List()) == 1 })
	s.Shut(wire.Place{Network: network})
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection stays")
	}
	if _, err := net.Dial("tcp4", s.address); err == nil {
		t.Error("it is still listened to")
	}
	if len(s.List()) != 0 {
		t.Errorf("lists %v", s.List())
	}
}
