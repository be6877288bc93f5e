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
	// Subjects are those of certificates by which the user is known, whole, as identity.Subject writes them.
	Subjects []string `json:"subjects"`
}

// Users are those who are known by a token, or by a certificate's subject. It is safe for concurrent use.
type Users struct {
	path string

	mu     sync.Mutex
	known  directory
	read   os.FileInfo // as the file was when it was read
	looked time.Time
}

// directory is what a file of users says.
type directory struct {
	byToken   map[[sha256.Size]byte]Caller
	bySubject map[string]Caller
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
	known, err := parseUsers(raw)
	if err != nil {
		return fmt.Errorf("users: %s: %w", u.path, err)
	}
	u.known, u.read = known, info
	return nil
}

func parseUsers(raw []byte) (directory, error) {
	var file struct {
		Users []user `json:"users"`
	}
	if err := yaml.UnmarshalStrict(raw, &file); err != nil {
		return directory{}, errors.New("it is no list of users: see docs/security.md")
	}
	out := directory{map[[sha256.Size]byte]Caller{}, map[string]Caller{}}
	for i, entry := range file.Users {
		if err := out.add(entry); err != nil {
			return directory{}, fmt.Errorf("users[%d]: %w", i, err)
		}
	}
	return out, nil
}

func (d directory) add(entry user) error {
	c, err := entry.caller()
	if err != nil {
		return err
	}
	for _, token := range entry.Tokens {
		sum, err := hex.DecodeString(token)
		if err != nil || len(sum) != sha256.Size {
			return errors.New("a token is given by its SHA-256, 64 hex digits")
		}
		if other, twice := d.byToken[[sha256.Size]byte(sum)]; twice {
			return fmt.Errorf("%s has a token of %s's", c.Name, other.Name)
		}
		d.byToken[[sha256.Size]byte(sum)] = c
	}
	for _, subject := range entry.Subjects {
		if other, twice := d.bySubject[subject]; twice || subject == "" {
			return fmt.Errorf("%s has the subject %q, which is empty or %s's", c.Name, subject, other.Name)
		}
		d.bySubject[subject] = c
	}
	return nil
}

// caller is whom an entry describes. One that is nobody is shut out: their certificate, good as it is, lets them do nothing.
func (u user) caller() (Caller, error) {
	role, ok := ParseRole(u.Role)
	switch {
	case u.Name == "":
		return Caller{}, errors.New("a user needs a name")
	case !ok:
		return Caller{}, fmt.Errorf("role %q is none of %v", u.Role, roleNames)
	case role == Nobody && len(u.Tokens) > 0:
		return Caller{}, errors.New("a token of nobody's is none: leave it out")
	}
	for _, p := range u.Projects {
		if !model.ValidProject(p) {
			return Caller{}, fmt.Errorf("%q can't name a project", p)
		}
	}
	return Caller{Name: u.Name, Role: role, Projects: slices.Clone(u.Projects)}, nil
}

// Bearer is the user of a token. Whoever has one that is nobody's is not told anything of those that are: they are looked
// up by their hash.
func (u *Users) Bearer(token string) (Caller, bool) {
	c, ok := u.now().byToken[sha256.Sum256([]byte(token))]
	return c, ok
}

// Subject is the user of certificates with a subject.
func (u *Users) Subject(subject string) (Caller, bool) {
	c, ok := u.now().bySubject[subject]
	return c, ok
}

// now is what the file says. One that has become wrong is an error only until it was right once.
func (u *Users) now() directory {
	u.mu.Lock()
	defer u.mu.Unlock()
	if time.Since(u.looked) > lookEvery {
		u.looked = time.Now()
		_ = u.reload() // what was read before stays in force
	}
	return u.known
}
