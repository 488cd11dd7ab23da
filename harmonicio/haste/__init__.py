"""HASTE: what is interesting is found from the content and kept where it deserves.

    message ──features──► interestingness function ──score──► policy ──tier──► storage
                                                                        └────► feature database (the commit point)

The words are those of Blamey et al., *Rapid development of cloud-native intelligent data pipelines for scientific data
streams using the HASTE Toolkit* (2021).
"""
