package identity

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"

	"github.com/weft-sdn/weft/proto/model"
)

// MaxProjects is how many projects the certificate of a user may name.
const MaxProjects = 64

// Membership is what the certificate of a user says of them besides who they are: their role in its one organizational unit
// (OU), their projects in its organizations (O). What that lets them do is the API's to say.
type Membership struct {
	Role     string
	Projects []string
}

// UserRoles are the roles of users, each of which includes the one before. Whoever may do everything is an Admin instead.
func UserRoles() []string { return []string{"reader", "member", "operator"} }

// Check says what is wrong with a membership.
func (m Membership) Check() error {
	switch {
	case !slices.Contains(UserRoles(), m.Role):
		return fmt.Errorf("role %q of a user is none of %v", m.Role, UserRoles())
	case len(m.Projects) == 0 && m.Role != "operator":
		return fmt.Errorf("a %s is of some project", m.Role)
	case len(m.Projects) > MaxProjects:
		return fmt.Errorf("%d projects, the limit is %d", len(m.Projects), MaxProjects)
	}
	for _, p := range m.Projects {
		if !model.ValidProject(p) {
			return fmt.Errorf("%q can't name a project", p)
		}
	}
	return nil
}

// MembershipOf is what the certificate of a user says of them. The error wraps ErrStranger.
func MembershipOf(certificate *x509.Certificate) (Membership, error) {
	units := certificate.Subject.OrganizationalUnit
	if len(units) != 1 {
		return Membership{}, fmt.Errorf("%d organizational units, where one says the role: %w", len(units), ErrStranger)
	}
	m := Membership{Role: units[0], Projects: certificate.Subject.Organization}
	if err := m.Check(); err != nil {
		return Membership{}, fmt.Errorf("%w: %w", ErrStranger, err)
	}
	return m, nil
}

// Subject is a certificate's whole subject as text (RFC 2253; `openssl x509 -noout -subject -nameopt RFC2253` prints it so):
// different subjects are different texts. It is empty for a subject that can't be read.
func Subject(certificate *x509.Certificate) string {
	var names pkix.RDNSequence
	if rest, err := asn1.Unmarshal(certificate.RawSubject, &names); err != nil || len(rest) > 0 {
		return ""
	}
	return names.String()
}
