"""Decentralized deep learning with compressed communication: CHOCO-SGD and its relatives."""
