from .data.batches import Batches as Batches
from .data.binarise import binarise as binarise
from .data.dataset import Dataset as Dataset
from .data.load import load as load
from .errors import InputError as InputError
from .infer.estimators.evaluate import evaluate as evaluate
from .infer.estimators.importance import importance_sample as importance_sample
from .infer.svi.svi import SVI as SVI
from .likelihoods import Likelihood as Likelihood
from .likelihoods import Mixed as Mixed
from .likelihoods import register as register
from .models.autoencoder import Autoencoder as Autoencoder
from .models.conditional import ConditionalVAE as ConditionalVAE
from .models.hierarchical import HierarchicalVAE as HierarchicalVAE
from .models.mixture import MixtureVAE as MixtureVAE
from .models.pca import ProbabilisticPCA as ProbabilisticPCA
from .models.semi_supervised import SemiSupervisedVAE as SemiSupervisedVAE
from .models.vae import VAE as VAE
from .tables.imputation import impute as impute
from .tables.imputed import Imputation as Imputation
from .training.fit import fit as fit
from .training.history import History as History

__version__: str
