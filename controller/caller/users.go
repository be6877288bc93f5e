package caller

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/weft-sdn/weft/proto/model"
)

// user is an entry of a file of users.
type user struct {
	Name string `json:"name"`
	// Role is reader, member, operator or admin.
	Role     string   `json:"role"`
	Projects []string `json:"projects"`
	// Tokens are the SHA-256 of the tokens by which the user is known, 64 hex digits each. A token is 32 random bytes or more,
	// as text: it can't be guessed, so its hash needs no salt.
	Tokens []string `json:"tokens_sha256"`
}

// Users are those who are known by a token. It is safe for concurrent use.
type Users struct {
	path string

	mu      sync.Mutex
	byToken map[[sha256.Size]byte]Caller
	read    os.FileInfo // as the file was when it was read
	looked  time.Time
}

// lookEvery is how often it is looked whether the file has changed.
const lookEvery = time.Second

// LoadUsers reads a file of users, a YAML list under "users" whose keys are those of user, and goes on following it. A file
// that others may write to is refused.
func LoadUsers(path string) (*Users, error) {
	u := &Users{path: path}
	return u, u.reload()
}

// reload reads the file if it is another than before. An error leaves what was read before in force.
func (u *Users) reload() error {
	info, err := os.Stat(u.path)
	if err != nil {
		return fmt.Errorf("users: %w", err)
	}
	if u.read != nil && os.SameFile(info, u.read) && info.ModTime().Equal(u.read.ModTime()) && info.Size() == u.read.Size() {
		return nil
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("users: others may write to %s: chmod go-w it", u.path)
	}
	raw, err := os.ReadFile(u.path)
	if err != nil {
		return fmt.Errorf("users: %w", err)
	}
	byToken, err := parseUsers(raw)
	if err != nil {
		return fmt.Errorf("users: %s: %w", u.path, err)
	}
	u.byToken, u.read = byToken, info
	return nil
}

func parseUsers(raw []byte) (map[[sha256.Size]byte]Caller, error) {
	var file struct {
		Users []user `json:"users"`
	}
	if err := yaml.UnmarshalStrict(raw, &file); err != nil {
		return nil, errors.New("it is no list of users: see docs/security.md")
	}
	out := map[[sha256.Size]byte]Caller{}
	for i, entry := range file.Users {
		c, err := entry.caller()
		if err != nil {
			return nil, fmt.Errorf("users[%d]: %w", i, err)
		}
		for _, token := range entry.Tokens {
			sum, err := hex.DecodeString(token)
			if err != nil || len(sum) != sha256.Size {
				return nil, fmt.Errorf("users[%d]: a token is given by its SHA-256, 64 hex digits", i)
			}
			if other, twice := out[[sha256.Size]byte(sum)]; twice {
				return nil, fmt.Errorf("users[%d]: %s has a token of %s's", i, c.Name, other.Name)
			}
			out[[sha256.Size]byte(sum)] = c
		}
	}
	return out, nil
}

func (u user) caller() (Caller, error) {
	role := slices.Index(roleNames[:], u.Role)
	switch {
	case u.Name == "":
		return Caller{}, errors.New("a user needs a name")
	case role <= int(Nobody):
		return Caller{}, fmt.Errorf("role %q is none of %v", u.Role, roleNames[Reader:])
	}
	for _, p := range u.Projects {
		if !model.ValidProject(p) {
			return Caller{}, fmt.Errorf("%q can't name a project", p)
		}
	}
	return Caller{Name: u.Name, Role: Role(role), Projects: slices.Clone(u.Projects)}, nil
}

// Bearer is the user of a token. Whoever has one that is nobody's is not told anything of those that are: they are looked
// up by their hash. A file that has become wrong is an error only until it was right once.
func (u *Users) Bearer(token string) (Caller, bool) {
	sum := sha256.Sum256([]byte(token))
	u.mu.Lock()
	defer u.mu.Unlock()
	if time.Since(u.looked) > lookEvery {
		u.looked = time.Now()
		_ = u.reload() // what was read before stays in force
	}
	c, ok := u.byToken[sum]
	return c, ok
}
