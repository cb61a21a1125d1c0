package main

import (
	"fmt"
	"os"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/cli/internal/certificates"
	"github.com/rumi-ai/rumi/libs/identity"
)

// certificatesCommand is `rumi certificates`: the certificates by which services know each other.
type certificatesCommand struct {
	List   certificatesListCommand   `cmd:"" help:"List the services' certificates that have not ended."`
	Revoke certificatesRevokeCommand `cmd:"" help:"Revoke all certificates of a service, and give it a new one. Every service refuses the revoked ones within a second. Nothing has to be restarted."`
}

type certificatesHome struct {
	Home            string               `help:"The Rumi home: the folder that holds ecosystem/ and user_data/." default:"/rumi" type:"path"`
	CertificateLife identity.LifeSetting `help:"How long a new certificate lives: 5s to 2160h." name:"certificate-life" default:"2160h" env:"RUMI_CERTIFICATE_LIFE"`
}

func (h certificatesHome) home() certificates.Home {
	return certificates.Home{Path: h.Home, Life: time.Duration(h.CertificateLife)}
}

type certificatesListCommand struct {
	certificatesHome
	JSON bool `help:"As JSON." name:"json"`
}

func (c *certificatesListCommand) Run() error {
	list, err := c.home().List(time.Now())
	if err != nil {
		return err
	}
	if !c.JSON {
		return certificates.Print(os.Stdout, list)
	}
	if list == nil {
		list = []certificates.Listed{}
	}
	if err := json.MarshalWrite(os.Stdout, list, jsontext.WithIndent("  ")); err != nil {
		return err
	}
	_, err = fmt.Println()
	return err
}

type certificatesRevokeCommand struct {
	certificatesHome
	Service string `arg:"" help:"The service, such as approval."`
}

func (c *certificatesRevokeCommand) Run() error {
	next, revoked, err := c.home().Revoke(c.Service, time.Now)
	for _, r := range revoked {
		fmt.Printf("revoked %s of %s, which would have ended at %s\n", r.Serial, r.Service, r.NotAfter.UTC().Format(time.RFC3339))
	}
	if err != nil {
		return err
	}
	fmt.Printf("%s has the new certificate %s, until %s\n", c.Service, next.Serial, next.NotAfter.UTC().Format(time.RFC3339))
	return nil
}
