"""The libp2p process: gossip, table exchange and neighbours of one node. Only this package imports libp2p and trio.

`python -m shared.libp2p_node` serves the process that started it: messages come in on stdin and leave on stdout, and
it ends when stdin does. It believes nothing that other nodes say before their signatures are checked.
"""
