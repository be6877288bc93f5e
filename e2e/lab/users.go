package lab

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/weft-sdn/weft/proto/identity"
)

// User is somebody whom the controllers know by a token (docs/security.md).
type User struct {
	Name     string   `json:"name"`
	Role     string   `json:"role"`
	Projects []string `json:"projects"`
}

// listedUser is an entry of the controllers' file of users.
type listedUser struct {
	User
	Tokens []string `json:"tokens_sha256"`
}

// Enrol makes users, and nobody else, known to the controllers, each by a new token. It returns, by name, the environment in
// which `weft` speaks for them on host ctl1: WEFT_SERVER, by TLS, WEFT_TLS_DIR, in which there is no certificate of theirs,
// WEFT_TOKEN_FILE, WEFT_PROJECT, the first of theirs, and PATH. Controllers may take a second to notice.
func (l *Lab) Enrol(users ...User) (map[string]map[string]string, error) {
	var listed []listedUser
	out := map[string]map[string]string{}
	for _, u := range users {
		token := rand.Text() + rand.Text() // 260 bits
		env, err := l.equip(u, token)
		if err != nil {
			return nil, fmt.Errorf("lab %s: user %s: %w", l.name, u.Name, err)
		}
		sum := sha256.Sum256([]byte(token))
		listed = append(listed, listedUser{u, []string{hex.EncodeToString(sum[:])}})
		out[u.Name] = env
	}
	controllers, err := l.controllers()
	if err != nil {
		return nil, err
	}
	for _, c := range controllers {
		if err := l.listUsers(c, listed); err != nil {
			return nil, fmt.Errorf("lab %s: users: %w", l.name, err)
		}
	}
	return out, nil
}

func (l *Lab) controllers() ([]HostInfo, error) {
	hosts, err := l.Hosts()
	return slices.DeleteFunc(hosts, func(h HostInfo) bool { return h.Kind != Controller }), err
}

// usersFile is where a controller looks for users.
func (l *Lab) usersFile(controller HostInfo) string {
	return filepath.Join(l.spec(controller.Name).Dir(), "users.yaml")
}

// listUsers writes a controller's file of users as a whole.
func (l *Lab) listUsers(controller HostInfo, users []listedUser) error {
	text, err := yaml.Marshal(map[string][]listedUser{"users": users})
	if err != nil {
		return err
	}
	file := l.usersFile(controller)
	if err := os.WriteFile(file+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// equip gives a user what they need to call from ctl1: a token, and the authorities by which controllers are known.
func (l *Lab) equip(u User, token string) (map[string]string, error) {
	env, err := l.Env()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(l.spec("ctl1").Dir(), "users", u.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	authorities, err := os.ReadFile(filepath.Join(env["WEFT_TLS_DIR"], identity.CAFile))
	if err != nil {
		return nil, err
	}
	env["WEFT_TLS_DIR"], env["WEFT_TOKEN_FILE"] = dir, filepath.Join(dir, "token")
	if len(u.Projects) > 0 {
		env["WEFT_PROJECT"] = u.Projects[0]
	}
	if env["WEFT_SERVER"], err = l.listeners(); err != nil {
		return nil, err
	}
	return env, errors.Join(
		os.WriteFile(filepath.Join(dir, identity.CAFile), authorities, 0o600),
		os.WriteFile(env["WEFT_TOKEN_FILE"], []byte(token), 0o600))
}

// listeners are the controllers' addresses in the management network, separated by commas.
func (l *Lab) listeners() (string, error) {
	controllers, err := l.controllers()
	var out []string
	for _, c := range controllers {
		out = append(out, c.api().String())
	}
	return strings.Join(out, ","), err
}

// api is where a controller serves who comes over the network.
func (h HostInfo) api() netip.AddrPort { return netip.AddrPortFrom(h.Management, 7680) }
