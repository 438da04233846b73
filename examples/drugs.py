"""Molecules that everybody knows, as isomeric SMILES; the demo and the other examples use them."""

DRUGS = {
    "aspirin": "CC(=O)Oc1ccccc1C(=O)O",
    "paracetamol": "CC(=O)Nc1ccc(O)cc1",
    "caffeine": "Cn1cnc2c1c(=O)n(C)c(=O)n2C",
    "(-)-menthol": "CC(C)[C@@H]1CC[C@@H](C)C[C@H]1O",
    "L-DOPA": "N[C@@H](Cc1ccc(O)c(O)c1)C(=O)O",
    "(S)-ibuprofen": "CC(C)Cc1ccc(cc1)[C@H](C)C(=O)O",
    "(S)-naproxen": "COc1ccc2cc(ccc2c1)[C@H](C)C(=O)O",
    "diazepam": "CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc21",
    "morphine": "CN1CC[C@]23c4c5ccc(O)c4O[C@H]2[C@@H](O)C=C[C@H]3[C@H]1C5",
    "penicillin G": "CC1(C)S[C@@H]2[C@H](NC(=O)Cc3ccccc3)C(=O)N2[C@H]1C(=O)O",
    "oseltamivir": "CCOC(=O)C1=C[C@@H](OC(CC)CC)[C@H](NC(C)=O)[C@@H](N)C1",
    "quinine": "COc1ccc2nccc(c2c1)[C@@H](O)[C@@H]1C[C@@H]2CCN1C[C@@H]2C=C",
    "(S)-warfarin": "CC(=O)C[C@@H](c1ccccc1)c1c(O)c2ccccc2oc1=O",
    "ciprofloxacin": "O=C(O)c1cn(C2CC2)c2cc(N3CCNCC3)c(F)cc2c1=O",
    "sertraline HCl": "CN[C@H]1CC[C@@H](c2ccc(Cl)c(Cl)c2)c2ccccc21.Cl",
    "zearalenone": "C[C@H]1CCCC(=O)CCC/C=C/c2cc(O)cc(O)c2C(=O)O1",
    "(Z)-tamoxifen": r"CC/C(=C(\c1ccccc1)c1ccc(OCCN(C)C)cc1)c1ccccc1",
    "(E)-tamoxifen": "CC/C(=C(/c1ccccc1)c1ccc(OCCN(C)C)cc1)c1ccccc1",
    "sildenafil": "CCCc1nn(C)c2c1nc([nH]c2=O)-c1cc(ccc1OCC)S(=O)(=O)N1CCN(C)CC1",
    "imatinib": "Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(n1)-c1cccnc1",
    "atorvastatin": (
        "CC(C)c1c(C(=O)Nc2ccccc2)c(-c2ccccc2)c(-c2ccc(F)cc2)n1CC[C@@H](O)C[C@@H](O)CC(=O)O"
    ),
    "diclofenac sodium": "O=C([O-])Cc1ccccc1Nc1c(Cl)cccc1Cl.[Na+]",
    # Selenium is outside the model's elements: a refusal is part of the picture.
    "ebselen": "O=c1n(-c2ccccc2)[se]c2ccccc12",
}
