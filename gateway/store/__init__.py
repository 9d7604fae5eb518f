"""What a gateway keeps in its database: keys, what they have used, and stored responses. Knows nothing of HTTP."""
