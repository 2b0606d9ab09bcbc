"""What tests call: from keywords to a request, and from an answer to a reply."""
