package proxy

import (
	"net/http"
	"strings"

	"github.com/weft-sdn/weft/agent/metadata/guest"
)

// refusal says why a request is not served; status 0 when it is. What net/http refuses by itself never gets here.
func refusal(r *http.Request) (status int, why string) {
	switch {
	case r.ProtoMajor != 1:
		return http.StatusHTTPVersionNotSupported, "this version of HTTP is not spoken here"
	case !strings.HasPrefix(r.RequestURI, "/"): // absolute, authority and asterisk form (RFC 9112, 3.2)
		return http.StatusBadRequest, "the request target must be a path"
	case r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodPost && r.Method != http.MethodPut:
		return http.StatusMethodNotAllowed, "GET, HEAD, POST or PUT, please"
	case len(r.TransferEncoding) > 0: // net/http has dropped a Content-Length beside it
		return http.StatusNotImplemented, "a body must have a Content-Length, and no Transfer-Encoding"
	case r.ContentLength > maxBody:
		return http.StatusRequestEntityTooLarge, "the body is too large"
	case r.Header.Get("Upgrade") != "" || names(r.Header["Connection"], "upgrade"):
		return http.StatusBadRequest, "nothing to upgrade to"
	case r.Header.Get("Expect") != "":
		return http.StatusExpectationFailed, "nothing to expect"
	}
	return 0, ""
}

// names reports whether a list of names in headers has one.
func names(lines []string, name string) bool {
	for _, line := range lines {
		for token := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(token), name) {
				return true
			}
		}
	}
	return false
}

// answerFrom answers with a document about the guest.
func answerFrom(w http.ResponseWriter, r *http.Request, g *guest.Guest) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "nothing can be written here", http.StatusMethodNotAllowed)
		return
	}
	d, ok := g.Find(r.URL.Path)
	if !ok {
		http.Error(w, "there is nothing here", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", d.Type)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(d.Body) // a guest that has gone misses nothing
}
